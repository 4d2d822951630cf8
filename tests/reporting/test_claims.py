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
