"""The report in a real browser: what it asks for, how it sorts, fits, prints and is operated."""

import re
import shutil

import pytest

from saddlescope.reporting import write_report
from saddlescope.runs import write_text
from tests.reporting.conftest import recipe_text, write_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)}")

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

METHODS = ("sgd", "sam", "sse-sam")
SCRIPT = "<script>window.hacked=1</script>"
IMAGE = '"><img src=x onerror=window.hacked=1>'
HOSTILE = f"{SCRIPT}{IMAGE}"
RUN_NAME = f"{IMAGE}{'W' * 80}"  # nothing to break the line at, either
ROWS = 13 * (len(METHODS) + 1)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The address of a report of three methods and a hostile fourth run."""
    root = tmp_path_factory.mktemp("browser")
    for method in METHODS:
        write_run(root / "runs", method)
    names = [f"{HOSTILE} {number}" for number in range(10)]
    info = {"method": HOSTILE, "provenance": {"command": [HOSTILE], "processor": HOSTILE}}
    path = write_run(root / "runs", HOSTILE, name="hostile", class_names=names, info=info)
    path = path.rename(path.parent / RUN_NAME)
    write_text(path / "recipe.toml", recipe_text("x", "sam", 0, extra=f"note = '''{HOSTILE}'''"))
    made = write_report([root / "runs"], root / "report.html")
    assert made.problems == ()
    return made.path.as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def listen(page, address):
    """Everything the page complains of, and every request but the one for itself."""
    heard = []

    def ask(request):
        if request.url != address and not request.url.startswith("data:"):
            heard.append(f"request {request.url}")

    page.on("request", ask)
    page.on("console", lambda message: heard.append(f"{message.type} {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error {error}"))
    return heard


@pytest.fixture
def visit(browser, report):
    """Open the report in a new window; what it complains of or asks for fails the test."""
    contexts, lists = [], []

    def visit(**options):
        contexts.append(browser.new_context(**{"viewport": DESKTOP} | options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)  # the machine may be busy
        lists.append(listen(page, report))
        page.goto(report)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [line for heard in lists for line in heard] == []


def column(page, heading):
    """A heading's button, its cell and its number."""
    cell = page.locator("#class-table thead th").filter(has_text=re.compile(f"^{heading}$"))
    return cell.locator("button"), cell, cell.evaluate("cell => cell.cellIndex")


def keys(page, number):
    """What the rows sort by in a column, in the order shown."""
    rows = page.locator("#class-table tbody tr")
    return rows.evaluate_all("(rows, n) => rows.map(row => row.cells[n].dataset.sort)", number)


def accessible(page):
    """Role, name and whether it takes the focus, as the browser tells a screen reader."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        (
            node["role"]["value"],
            node.get("name", {}).get("value", ""),
            any(item["name"] == "focusable" for item in node.get("properties", [])),
        )
        for node in nodes
        if not node["ignored"]
    ]


def contrast(page, selector):
    """Contrast of an element's text against the page, by WCAG's formula."""
    colors = page.evaluate(
        "selector => [document.querySelector(selector), document.body].map("
        "(element, n) => getComputedStyle(element)[n ? 'backgroundColor' : 'color'])",
        selector,
    )
    shades = []
    for color in colors:
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        shades.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(shades) + 0.05) / (min(shades) + 0.05)


def test_it_asks_for_nothing_and_complains_of_nothing(visit):
    """Read to its end, every fold opened, sorted and filtered."""
    page = visit()
    page.locator("summary").evaluate_all("all => all.forEach(one => one.click())")
    for button in page.locator("#class-table thead button").all():
        button.click()
    page.get_by_label("Class or verdict").fill("digit")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    assert page.title() == "digits, tiny: at a saddle?"


def test_the_test_hears_what_a_page_does(browser, report):
    """Otherwise silence would prove nothing. The page's policy keeps the request from leaving."""
    with browser.new_context() as context:
        page = context.new_page()
        heard = listen(page, report)
        page.goto(report)
        page.evaluate("new Promise(done => {"
                      "const image = new Image(); image.onerror = done;"
                      "image.src = 'http://127.0.0.1:9/x.png'})")  # fmt: skip
        with page.expect_event("pageerror"):
            page.evaluate("console.error('aloud'); setTimeout(() => { throw Error('thrown') })")
    assert any("Content Security Policy" in line for line in heard)
    assert {"error aloud", "error thrown"} <= set(heard)


def test_hostile_text_is_shown_literally_and_not_run(visit):
    page = visit()
    column(page, "Name")[0].click()
    page.get_by_label("Class or verdict").fill("script")
    assert page.evaluate("typeof window.hacked") == "undefined"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    cell = page.locator("#class-table tbody tr:not([hidden]) td:nth-child(3)").first
    assert cell.inner_text() == f"{HOSTILE} 0"
    for place in (".runs tbody th", "details > summary"):
        assert RUN_NAME in page.locator(place).all_text_contents()
    assert any(HOSTILE in text for text in page.locator("details > pre").all_text_contents())
    assert HOSTILE in page.locator("h3:text-is('Commands') + pre").text_content()
    assert HOSTILE in page.locator("dd").all_text_contents()
    options = page.locator("#filter-method option").all_text_contents()
    assert any(text.startswith(SCRIPT[:20]) for text in options)


def test_numbers_sort_both_ways_with_empty_ones_last(visit):
    page = visit()
    for heading in ("λratio", "λmin", "n"):
        button, cell, number = column(page, heading)
        before = keys(page, number)
        filled = sorted(float(key) for key in before if key)
        empty = [""] * (len(before) - len(filled))
        assert bool(empty) == (heading == "λratio")
        for order, expected in (("ascending", filled), ("descending", filled[::-1])):
            button.click()
            assert cell.get_attribute("aria-sort") == order
            shown = keys(page, number)
            assert [float(key) for key in shown[: len(filled)]] == expected
            assert shown[len(filled) :] == empty
        assert page.locator("[aria-sort]").count() == 1
    button, _, number = column(page, "Class")
    button.click()  # text: classes by number, and groups after them
    found = list(dict.fromkeys(keys(page, number)))
    assert found == [*(f"{label:09d}" for label in range(10)), "~all", "~head", "~tail"]


def test_sorting_by_keyboard(visit):
    page = visit()
    button, cell, number = column(page, "λratio")
    button.focus()
    page.keyboard.press("Enter")
    assert cell.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert cell.get_attribute("aria-sort") == "descending"
    filled = [float(key) for key in keys(page, number) if key]
    assert filled == sorted(filled, reverse=True)
    assert button.evaluate("button => button === document.activeElement")


def test_filtering_by_text_and_by_method(visit):
    page = visit()
    text, method = page.get_by_label("Class or verdict"), page.locator("#filter-method")
    shown = page.locator("#class-table tbody tr:visible")

    def found(count):
        assert page.locator("#filter-count").inner_text() == f"{count} of {ROWS} rows"
        assert shown.count() == count

    found(ROWS)
    text.fill("unresolved")
    found(1)
    text.fill("1")  # not the groups of 10 and more
    found(len(METHODS) + 1)
    text.fill("olved")
    found(0)
    text.fill("DIGIT 3")
    found(len(METHODS))
    method.select_option("SAM")
    found(1)
    assert shown.locator("th").inner_text() == "SAM"
    text.fill("")
    found(13)
    column(page, "λratio")[0].click()  # sorting brings nothing back
    found(13)
    text.fill("no such class")
    found(0)
    text.fill("")
    method.select_option("all")
    found(ROWS)


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_fits_the_window_by_day_and_by_night(visit, size):
    page = visit(viewport=size)
    page.locator("summary").evaluate_all("all => all.forEach(one => one.click())")
    page.evaluate("document.getElementById('figure-fig4').scrollIntoView()")
    backgrounds, pictures = set(), set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        pictures.add(page.screenshot())
        for selector in ("body", ".kicker", "nav a", ".supported", ".undecided", ".unresolved"):
            assert contrast(page, selector) >= 4.5  # what WCAG's level AA asks of text
    assert len(backgrounds) == len(pictures) == 2
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 10_000 for picture in pictures)


def test_it_fits_windows_between_and_below(visit):
    """A small phone, or a desktop's text at four times its size; just past the narrow layout."""
    page = visit()
    for width in (900, 641, 320):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_column_of_the_class_table_is_seen_on_a_desktop(visit):
    page = visit()
    page.locator("#filter-method").select_option("SAM")
    box = page.locator(".tall")
    assert box.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_in_print_tools_are_hidden_and_nothing_is_folded_or_cut(visit):
    page = visit(color_scheme="dark")
    page.emulate_media(media="print")
    for selector in ("#tools", "nav", ".skip", ".files"):
        assert page.locator(selector).is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    box = page.locator(".tall")
    assert box.evaluate("box => box.scrollHeight <= box.clientHeight")
    assert all(recipe.bounding_box()["height"] > 50 for recipe in page.locator("details pre").all())
    # A button's box is not repeated with the head of a table on the following pages.
    heads = page.locator("#class-table thead button")
    shown = heads.evaluate_all("all => all.map(one => getComputedStyle(one).display)")
    assert set(shown) == {"contents"}
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 2


def test_without_script_the_table_is_whole_and_the_tools_are_hidden(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("#tools").is_hidden()
    assert page.locator("#class-table tbody tr:visible").count() == ROWS
    assert page.locator("#class-table thead th:visible").count() == 10
    assert page.locator("button").count() == 0
    assert page.locator("figure:visible").count() == 6


def test_the_first_key_reaches_the_link_past_the_navigation(visit):
    page = visit()
    skip = page.locator(".skip")
    assert skip.bounding_box()["x"] < 0
    page.keyboard.press("Tab")
    assert skip.evaluate("link => link === document.activeElement")
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


def test_a_screen_reader_is_told_what_everything_is(visit):
    page = visit()
    assert page.locator("img, svg:not([role=img])").count() == 0
    for size in (PHONE, DESKTOP):
        page.set_viewport_size(size)
        nodes = accessible(page)
        images = [name for role, name, _ in nodes if role in ("image", "img")]
        assert len(images) == 6
        assert min(map(len, images)) > 40
        regions = [name for role, name, _ in nodes if role == "region"]
        assert regions == page.locator("main > section > h2").all_text_contents()
        assert len(regions) == page.locator("section").count() == 7
        fields = [name for role, name, _ in nodes if role in ("searchbox", "combobox")]
        assert fields == ["Class or verdict", "Method"]
        focusable = [name for _, name, takes_focus in nodes if takes_focus]
        assert len(focusable) > 30
        assert all(focusable)


def test_a_table_is_downloaded(visit):
    page = visit()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="classes.csv").click()
    assert waiting.value.suggested_filename == "classes.csv"
    text = waiting.value.path().read_text(encoding="utf-8")
    assert len(text.splitlines()) == ROWS + 1
