"""The paper's claims are decided only by enough seeds that all agree."""

import math

import pytest

from saddlescope.reporting import find, select_runs
from saddlescope.reporting.judging import CONTRADICTED, SUPPORTED, UNDECIDED, Ordering, judge
from saddlescope.runs import append_row
from tests.reporting.conftest import METHODS, spectrum_row


def ordering(networks):
    return Ordering("Fig. 0", "a lies above b.", [("a", "b")], networks)


def networks(*bounds):
    return dict(enumerate(bounds))


@pytest.mark.parametrize(
    ("high", "low", "verdict"),
    [
        ([(3, 4), (5, 6), (3, 3)], [(1, 2), (0, 1), (2, 2.5)], SUPPORTED),
        ([(1, 2), (0, 1), (2, 2.5)], [(3, 4), (5, 6), (3, 3)], CONTRADICTED),
        ([(3, 4), (5, 6), (2, 3)], [(1, 2), (0, 1), (2, 2.5)], UNDECIDED),
        ([(3, math.inf), (5, 6), (3, 3)], [(1, 2), (0, 1), (2, 2.5)], SUPPORTED),
        ([(-math.inf, math.inf), (5, 6), (3, 3)], [(1, 2), (0, 1), (2, 2)], UNDECIDED),
        ([(3, 4), (5, 6)], [(1, 2), (0, 1)], UNDECIDED),
        ([(3, 4)], [(1, 2)], UNDECIDED),
        ([], [(1, 2)], UNDECIDED),
    ],
)
def test_judge(high, low, verdict):
    found = judge(ordering({"a": networks(*high), "b": networks(*low)}))
    assert found.verdict == verdict


def test_judge_says_why():
    three, lower = networks((3, 3), (4, 4), (5, 5)), networks((0, 0), (1, 1), (2, 2))
    found = judge(ordering({"a": three, "b": lower}), obstacle="Not finished: x.")
    assert (found.verdict, found.reason.startswith("Not finished: x.")) == (UNDECIDED, True)
    assert "measured for b" in judge(ordering({"a": three})).reason
    alone = ordering({"a": {0: (3, 3)}, "b": {0: (1, 1)}})
    assert "Only one training seed" in judge(alone).reason


def test_one_seed_leaves_every_claim_between_methods_undecided(study):
    claims = find(select_runs([study])).claims
    verdicts = {claim.statement: claim.verdict for claim in claims}
    between = [claim for claim in claims if claim.source.startswith(("Fig", "Table"))]
    assert len(between) == 11
    assert {claim.verdict for claim in between} == {UNDECIDED}
    assert verdicts["λ_min is mostly negative."] == SUPPORTED
    assert verdicts["The mean loss of the head classes lies below the tail's."] == SUPPORTED


def test_three_seeds_decide_where_all_agree(seeds_study):
    claims = {claim.statement: claim for claim in find(select_runs([seeds_study])).claims}
    assert claims["λ_ratio over all samples: SSE-SAM highest."].verdict == SUPPORTED
    tail = "λ_ratio on class 9 (class 80 in the paper): ImbSAM > SGD and SAM."
    assert claims[tail].verdict == CONTRADICTED  # SAM's lower bound is above all of ImbSAM


def test_a_network_that_cannot_be_compared_does_not_drop_out(make_run):
    for method in METHODS:
        for seed in range(3):
            ratio = 50.0 if method == "sse-sam" else 10.0
            odd = {"verdict": "positive"} if (method, seed) == ("sse-sam", 1) else {}
            row = spectrum_row(method, "group", "all", 9, ratio, **odd)
            path = make_run(method, seed=seed, rows=[row])
    claims = {claim.statement: claim for claim in find(select_runs([path.parent])).claims}
    assert claims["λ_ratio over all samples: SSE-SAM highest."].verdict == UNDECIDED


def test_losses_of_head_and_tail(make_run):
    path = make_run("sam")
    (path / "metrics.jsonl").unlink()
    for epoch in range(3):
        append_row(path / "metrics.jsonl", {"epoch": epoch, "loss_head": 3.0, "loss_tail": 1.0})
    claims = {claim.source: claim for claim in find(select_runs([path])).claims}
    assert claims["Eq. 8"].verdict == SUPPORTED  # 3 · 344 / 65 = 15.9
    assert "15.9 in 1 run" in claims["Eq. 8"].reason
    assert claims["Small-loss assumption"].verdict == CONTRADICTED


BASE = dict(zip(METHODS, (10.0, 12.0, 11.0, 13.0, 30.0), strict=True))
HIGHEST = "λ_ratio over all samples: SSE-SAM highest."


def study_of(make_run, *, kind="group", name="all", measured=(0, 1, 2), info=None, **columns):
    """Find what three seeds a method say, of which SSE-SAM's λ_ratio is by far the highest.

    Args:
        make_run: the fixture.
        kind: of the row.
        name: of the row.
        measured: seeds that have one.
        info: what run.json says more, by method.
        columns: of the row, by method or for all.
    """
    for method in METHODS:
        own = {
            key: v.get(method, v[""]) if isinstance(v, dict) else v for key, v in columns.items()
        }
        for seed in range(3):
            row = spectrum_row(method, kind, name, 400, BASE[method] + 0.1 * seed, **own)
            path = make_run(
                method,
                seed=seed,
                rows=[row] if seed in measured else [],
                info=(info or {}).get(method),
            )
    return find(select_runs([path.parent]))


def claims_of(found):
    return {claim.statement: claim for claim in found.claims}


def test_the_study_that_the_next_ones_spoil_is_decided(make_run):
    assert claims_of(study_of(make_run))[HIGHEST].verdict == SUPPORTED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epoch": {"sse-sam": 19, "": 5}}, "Measured at different epochs (5–19)"),
        ({"operator": "norm-weighted"}, "The rows are of norm-weighted, and the claim is of the"),
        ({"parameters": "layer3.*"}, "hessian of layer3.*"),
        ({"weight_decay": 0.1}, "with weight decay 0.1"),
        ({"confidence": 0.5}, "Bounds at 50 % say nothing of 15 rows together"),
        ({"info": {"sse-sam": {"data": {"checksum": "f" * 64, "counts": [9] * 10}}}}, "other data"),
    ],
)
def test_rows_that_cannot_decide_a_claim_do_not(make_run, changes, words):
    found = study_of(make_run, **changes)
    claim = claims_of(found)[HIGHEST]
    assert claim.verdict == UNDECIDED
    assert words.replace("other data", "trained on different data") in claim.reason


def test_a_semidefinite_matrix_is_none_of_the_claims(make_run):
    found = study_of(make_run, kind="class", name="0", operator="gauss-newton", verdict="positive")
    assert claims_of(found)["λ_min is mostly negative."].verdict == UNDECIDED


def test_cross_entropy_is_compared_where_it_was_measured(make_run):
    for method in METHODS:
        rows = [spectrum_row(method, "group", "all", 400, 5.0)]
        for name in ("all", "tail"):
            ratio = BASE[method]
            rows.append(spectrum_row(method, "group", name, 400, ratio, criterion="cb-drw"))
        path = make_run(method, rows=rows)
    chosen = select_runs([path.parent])
    assert chosen.criterion == "ce"
    assert chosen.rows["lambda_ratio"].tolist() == [5.0] * 5


def test_a_class_that_is_not_the_most_frequent_does_not_stand_for_it(make_run):
    found = study_of(make_run, kind="class", name="3")
    claim = claims_of(found)["λ_ratio on the most frequent class: SSE-SAM highest."]
    assert claim.verdict == UNDECIDED
    assert "Class 3, most frequent of those measured: that of the claim was not" in claim.reason


def test_only_measured_seeds_count(make_run):
    found = study_of(make_run, measured=(0,))
    assert found.limits[0].startswith("One training seed supports no claim")
    assert "support no claim" in found.paragraph or "supports no claim" in found.paragraph


def test_the_second_stage_is_that_of_sse_sam(make_run):
    """Another run with a switch of its own, and an earlier one, moves no claim."""
    study_of(make_run)
    path = make_run("imbsam", name="sgd-then-imbsam", info={"switch_epoch": 2})
    statements = claims_of(find(select_runs([path.parent])))
    assert [text for text in statements if text.startswith("Mean from epoch 14")]
    assert not [text for text in statements if text.startswith("Mean from epoch 2,")]


def test_methods_that_cannot_be_compared_are_not_ordered_in_the_paragraph(make_run):
    data = {"sse-sam": {"data": {"checksum": "f" * 64, "counts": [9] * 10}}}
    found = study_of(make_run, info=data)
    assert "The methods cannot be compared. The runs were trained on different" in found.paragraph
    assert "By λ_ratio" not in found.paragraph
