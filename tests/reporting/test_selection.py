"""What is compared is one split, one criterion, the last checkpoint; starts are not seeds."""

import math

import pytest

from saddlescope.reporting import (
    PICTURES,
    class_table,
    find,
    load_runs,
    select,
    select_runs,
    summary_text,
)
from saddlescope.reporting.selection import spread
from saddlescope.runs import RunFolder, write_spectrum
from tests.reporting.conftest import spectrum_row


def test_panels_are_all_the_most_frequent_and_the_rarest(study):
    chosen = select_runs([study])
    assert [(p.kind, p.name) for p in chosen.panels] == [
        ("group", "all"), ("class", "0"), ("class", "9"),
    ]  # fmt: skip
    assert chosen.labels == ("SGD", "SAM", "ImbSAM", "SAM (ext.)", "SSE-SAM")
    scope = chosen.scope()
    for part in ("train split", "n = 409", "99.9 %", "training seed 0", "ce"):
        assert part in scope


def test_a_hundred_classes_show_class_80_as_the_paper_does(make_run):
    counts = [max(5, int(500 / 100 ** (i / 99))) for i in range(100)]
    rows = [spectrum_row("sam", "class", str(c), counts[c], 10.0) for c in (0, 80, 99)]
    make_run("sam", rows=rows, counts=counts)
    chosen = select_runs([make_run("sgd", rows=rows, counts=counts).parent])
    assert [p.title for p in chosen.panels] == ["Class 0, most frequent", "Class 80, a tail class"]


def test_the_last_checkpoint_of_the_split_and_criterion_is_taken(make_run):
    path = make_run("sam", rows=[spectrum_row("sam", "group", "all", 9, 10.0)])
    folder = RunFolder(path)
    early = spectrum_row("sam", "group", "all", 9, 1.0, epoch=3)
    test = spectrum_row("sam", "group", "all", 9, 2.0, split="test")
    other = spectrum_row("sam", "group", "all", 9, 3.0, criterion="ldam", seed=5)
    write_spectrum(folder.spectrum_file("epoch-003", "train"), [early])
    write_spectrum(folder.spectrum_file("last", "test"), [test])
    write_spectrum(folder.spectrum_file("other", "train"), [other])
    runs = load_runs([path])[0]
    assert select(runs).ratios("group", "all")[0].value == 10.0
    assert select(runs, split="test").ratios("group", "all")[0].value == 2.0
    fallback = select(runs, split="validation")
    assert fallback.split == "train"


def test_starts_are_joined_by_their_hull_and_most_cautious_verdict(make_run):
    rows = [
        spectrum_row("sam", "group", "all", 9, 10.0, seed=0),
        spectrum_row("sam", "group", "all", 9, 11.0, seed=1, verdict="not-converged"),
        spectrum_row("sam", "group", "all", 9, 12.0, seed=2),
    ]
    chosen = select_runs([make_run("sam", rows=rows)])
    ratio = chosen.ratios("group", "all")[0]
    assert (ratio.value, ratio.starts, ratio.verdict) == (11.0, 3, "not-converged")
    assert ratio.lower == pytest.approx(10.0 * 0.97)
    assert ratio.upper == pytest.approx(12.0 * 1.03)
    assert "3 Lanczos starts" in chosen.scope()
    assert "training seed 0" in chosen.scope()


def test_what_cannot_be_compared_is_above_nothing(make_run):
    rows = [
        spectrum_row("sam", "class", "0", 9, 50.0, verdict="positive"),
        spectrum_row("sam", "class", "1", 9, 10.0),
        spectrum_row("sam", "class", "2", 9, math.nan, lambda_ratio_lower=20.0,
                     lambda_ratio_upper=math.inf, verdict="unresolved"),
    ]  # fmt: skip
    chosen = select_runs([make_run("sam", rows=rows)])
    positive, plain, unresolved = (chosen.ratios("class", name)[0] for name in "012")
    assert not positive.above(plain)
    assert unresolved.above(plain)
    assert not plain.above(unresolved)
    assert chosen.ratios("class", "7") == {}


def test_labels_tell_runs_of_one_method_apart(make_run):
    make_run("sam", seed=0)
    make_run("sam", seed=1)
    path = make_run("sam", seed=1, name="again")
    assert select_runs([path.parent]).labels == (
        "SAM seed 0", "SAM: again", "SAM: sam-seed1",
    )  # fmt: skip


def test_no_spectrum_gives_an_empty_selection(make_run):
    chosen = select_runs([make_run("sam", spectrum=False)])
    assert chosen.panels == ()
    assert chosen.rows.empty
    assert chosen.scope() == "no spectrum was measured"


@pytest.mark.parametrize(
    "other",
    [{"operator": "weingarten"}, {"parameters": "fc.*"}, {"weight_decay": 0.5}],
    ids=lambda other: next(iter(other)),
)
def test_two_matrices_are_never_set_side_by_side(make_run, other):
    rows = [
        spectrum_row("sam", "group", "all", 9, 10.0),
        spectrum_row("sam", "group", "all", 9, 3.0, seed=1, **other),
        spectrum_row("sam", "class", "0", 9, 3.0, **other),
    ]
    chosen = select_runs([make_run("sam", rows=rows)])
    assert chosen.ratios("group", "all")[0].starts == 1
    assert chosen.ratios("class", "0") == {}
    assert "hessian" not in chosen.scope()
    alone = select(load_runs([make_run("sgd", rows=rows[1:])])[0])
    assert alone.ratios("group", "all")[0].value == 3.0
    assert next(iter(other.values())) == 0.5 or str(next(iter(other.values()))) in alone.scope()


def test_tables_alone_make_a_run_for_each_network(tmp_path, study):
    """What `spectrum -o` wrote of anyone's networks, in one file or two, beside a run folder."""
    rows = [
        spectrum_row("", "group", "all", 9, 10.0, run="lab.nets:small"),
        spectrum_row("", "group", "all", 9, 20.0, run="lab.nets:large"),
    ]
    more = spectrum_row("", "class", "0", 4, 12.0, run="lab.nets:small")
    write_spectrum(tmp_path / "both.csv", rows)
    write_spectrum(tmp_path / "more.csv", [more])
    chosen = select_runs([tmp_path / "both.csv", tmp_path / "more.csv", tmp_path / "both.csv"])
    assert chosen.problems == ()
    assert chosen.labels == ("lab.nets:large", "lab.nets:small")
    assert [r.value for r in chosen.ratios("group", "all").values()] == [20.0, 10.0]
    assert list(chosen.ratios("class", "0")) == [1]
    found = find(chosen)
    assert found.claims == ()  # nothing is known of methods, so nothing is said of them
    assert "claim between methods" not in found.paragraph
    assert "lab.nets:large > lab.nets:small" in found.paragraph
    beside = find(select_runs([study, tmp_path / "both.csv"]))
    assert beside.claims
    limits = " ".join(beside.limits)
    assert "How they were trained is not known: lab.nets:large, lab.nets:small." in limits
    together = select_runs([study / "sam-seed0", tmp_path / "both.csv"])
    assert together.labels == ("SAM", "lab.nets:large", "lab.nets:small")
    (tmp_path / "none.csv").write_text("a,b\n1,2\n")
    assert "missing columns" in select_runs([tmp_path / "none.csv"]).problems[0].reason


@pytest.mark.parametrize("empty", ["all", "one"])
def test_a_table_without_numbers_of_samples_is_shown(tmp_path, empty):
    rows = [spectrum_row("sam", "group", "all", 9, 10.0)]
    rows += [spectrum_row("sam", "class", name, 9, 10.0) for name in "01"]
    rows = [row | ({"n": None} if empty == "all" or row["name"] == "0" else {}) for row in rows]
    write_spectrum(tmp_path / "t.csv", rows)
    chosen = select_runs([tmp_path / "t.csv"])
    assert chosen.problems == ()
    assert len(chosen.panels) == 3
    for panel in chosen.panels:
        assert chosen.ratios(panel.kind, panel.name)[0].value == 10.0
    assert PICTURES["summary"](chosen).axes
    assert "class" in summary_text(chosen).lower()


@pytest.mark.parametrize("name", ["٣", "007", "1" * 5000])
def test_a_class_is_called_by_its_name_and_not_by_its_number(tmp_path, name):
    rows = [spectrum_row("sam", "class", name, 9, 10.0)]
    write_spectrum(tmp_path / "t.csv", rows)
    chosen = select_runs([tmp_path / "t.csv"])
    assert [panel.name for panel in chosen.panels] == [name]
    assert chosen.ratios("class", name)[0].value == 10.0
    assert PICTURES["summary"](chosen).axes
    assert len(class_table(chosen)) == 1


def test_a_spread_of_nothing_is_a_dash():
    assert (spread(()), spread([3, 3]), spread([4, 3])) == ("—", "3", "3–4")
