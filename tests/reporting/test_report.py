"""The report: complete, offline, the same bytes twice, and inert whatever a folder holds."""

import base64
import re
from html.parser import HTMLParser

import pytest

from saddlescope.reporting import write_report
from saddlescope.runs import write_text
from tests.reporting.conftest import recipe_text, spectrum_row

HOSTILE = "</script><script>alert('x')</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}"
VOID = {"meta", "br", "img", "input", "path", "use", "hr", "link"}


class Page(HTMLParser):
    """Elements, attributes and balance of an HTML page."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    return write_report([study], tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def page(report):
    return Page(report.path.read_text(encoding="utf-8"))


def test_the_page_is_well_formed_and_complete(report, page):
    assert report.problems == ()
    assert page.open == []
    headings = ["The answer", "by method", "claims on these runs", "Class by class", "Training",
                "Accuracy by shots", "How it was made"]  # fmt: skip
    for heading in headings:
        assert heading in page.text
    assert len(page.all("figure")) == len(page.all("figcaption")) == 6
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert len(svg["aria-label"]) > 40
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("a")[0] == {"class": "skip", "href": "#content"}
    assert "saddlescope train sse-sam.toml -o runs/sse-sam" in page.text
    assert "imbalance_factor = 20" in page.text
    assert "Example CPU" in page.text


def test_ids_are_unique_and_links_have_targets(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
    assert {link[1:] for link in links} <= set(ids)
    described = {a["aria-describedby"] for _, a in page.elements if "aria-describedby" in a}
    labelled = {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a}
    assert described | labelled <= set(ids)


def test_nothing_is_fetched(report, page):
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    for part in ("default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"):
        assert part in policy
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    html = report.path.read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\"' <]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in html


def test_the_class_table_is_whole_without_script(page):
    rows = [a for a in page.all("tr") if "data-method" in a]
    assert len(rows) == 65
    assert "[40.0, ∞]" in page.text
    tools = next(a for _, a in page.elements if a.get("id") == "tools")
    assert "hidden" in tools
    assert len(page.all("script")) == 1


def test_downloads_hold_the_tables(page):
    links = {a["download"]: a["href"] for a in page.all("a") if "download" in a}
    csv = base64.b64decode(links["classes.csv"].split(",", 1)[1]).decode()
    assert csv.count("\n") == 66
    assert csv.startswith("label,run,method")
    assert set(links) >= {"fig4.svg", "training.svg", "spectra.csv", "accuracy.csv"}
    assert base64.b64decode(links["fig4.svg"].split(",", 1)[1]).startswith(b"<?xml")


def test_the_same_folders_give_the_same_bytes(study, report, tmp_path):
    again = write_report([study], tmp_path / "again.html").path.read_bytes()
    assert again == report.path.read_bytes()
    assert str(study).encode() not in again


def test_values_stay_beside_their_names_and_units(report):
    text = re.sub(r"<svg.*?</svg>|<script.*?</script>|<style.*?</style>", "",
                  report.path.read_text(encoding="utf-8"), flags=re.S)  # fmt: skip
    captions = re.findall(r"<(?:figcaption|p class=\"caption\").*?</(?:figcaption|p)>", text, re.S)
    together = "".join(captions)
    assert "&nbsp;=&nbsp;" in together
    assert " = " not in re.sub(r" = (?![\d.−-])", "", together)


def test_hostile_text_is_shown_and_not_executed(make_run, tmp_path):
    rows = [
        spectrum_row("sam", "group", "all", 9, 10.0, verdict=HOSTILE),
        spectrum_row("sam", "class", "0", 9, 10.0),
        spectrum_row("sam", "class", HOSTILE, 9, 10.0),
    ]
    path = make_run(
        "sam",
        rows=rows,
        name="<b>run & co",
        class_names=[HOSTILE] * 10,
        info={"method": HOSTILE, "provenance": {"command": [HOSTILE], "processor": HOSTILE}},
    )
    text = recipe_text("x", "sam", 0, extra=f"note = '''{HOSTILE}'''")
    write_text(path / "recipe.toml", text.replace('"digits"', "'''" + HOSTILE + "'''"))
    broken = path.parent / "<i>broken"
    broken.mkdir()
    (broken / "run.json").write_text("{}")
    report = write_report([path.parent], tmp_path / "report.html")
    page = Page(report.path.read_text(encoding="utf-8"))
    assert page.open == []
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert "alert('x')" in page.text
    assert "{{ 7*7 }}" in page.text  # a template in a recipe stays text
    assert "<b>run & co" in page.text
    assert "<i>broken" in page.text


def test_broken_and_missing_folders_are_listed(make_run, tmp_path):
    path = make_run("sam", spectrum=False)
    (path / "metrics.jsonl").unlink()
    report = write_report([path, tmp_path / "gone"], tmp_path / "report.html")
    page = Page(report.path.read_text(encoding="utf-8"))
    assert [problem.name for problem in report.problems] == ["gone"]
    assert "no such folder" in page.text
    assert page.all("figure") == []
    assert "No spectrum was measured" in page.text


@pytest.mark.parametrize("others", [(), ("sam",)])
def test_a_run_that_cannot_be_placed_is_listed(make_run, tmp_path, others):
    """A method from elsewhere has no radii here; all that was measured of it is shown."""
    paths = [make_run("mymethod"), *map(make_run, others)]
    written = write_report(paths, tmp_path / "odd.html")
    (problem,) = written.problems
    assert problem.name == "mymethod-seed0"
    assert problem.reason.startswith("unknown method 'mymethod'")
    text = " ".join(Page(written.path.read_text()).text.split())
    assert "unknown method 'mymethod'" in text
    assert ("Where measured checkpoints stand" in text) == bool(others)


def test_no_run_at_all_is_still_a_page(tmp_path):
    report = write_report([tmp_path / "gone"], tmp_path / "report.html")
    page = Page(report.path.read_text(encoding="utf-8"))
    assert page.open == []
    assert "No run could be read" in page.text
