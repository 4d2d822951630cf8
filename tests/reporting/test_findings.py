"""Sentences claim what the bounds support and name what they do not."""

import math
import re
from dataclasses import replace

import pytest

from saddlescope.reporting import Ratio, find, select, select_runs
from saddlescope.reporting.ordering import order
from saddlescope.reporting.terminal import summary_text
from tests.reporting.conftest import METHODS, spectrum_row


def ratio(lower, upper, verdict="negative-curvature"):
    return Ratio((lower + upper) / 2, lower, upper, verdict, 0.1, 9, 0.999, 1)


def test_order_groups_what_overlaps():
    entries = [
        ("a", ratio(1, 2)),
        ("b", ratio(5, 6)),
        ("c", ratio(5.5, 7)),
        ("d", ratio(10, 11)),
        ("e", ratio(3, 4)),
        ("p", ratio(99, 100, "positive")),
    ]
    assert order(entries) == [["d"], ["c", "b"], ["e"], ["a"]]


def test_an_open_upper_bound_reaches_into_every_group_above():
    entries = [("a", ratio(20, 22)), ("b", ratio(15, 16)), ("c", ratio(1, 2))]
    entries.append(("u", replace(ratio(10, 11), upper=math.inf)))
    assert order(entries) == [["a", "b", "u"], ["c"]]


def test_the_paragraph_names_gradients_seeds_and_order(study):
    found = find(select_runs([study]))
    for part in (
        "5 checkpoints",
        "negative curvature resolved in 48, unresolved in 1, not converged in 1",
        "‖∇L‖",
        "SSE-SAM > SAM (ext.) > SAM > ImbSAM > SGD; bounds disjoint in 10 of 10 pairs",
        "One training seed supports no claim between methods",
    ):
        assert part in found.paragraph
    assert len(found.comparisons) == 3
    assert len(found.verdicts) == 5
    assert {line.verdict for line in found.verdicts} <= {
        "negative-curvature",
        "unresolved",
        "positive",
        "not-converged",
    }
    assert any("together with 98.5 %" in sentence for sentence in found.limits)
    assert "at a saddle" not in " ".join(
        (found.paragraph, *(line.text for line in found.verdicts), *found.comparisons)
    )


def test_overlapping_bounds_are_not_ordered(make_run):
    for method, ratio in (("sgd", 10.0), ("sam", 10.1), ("sse-sam", 20.0)):
        path = make_run(method, rows=[spectrum_row(method, "group", "all", 9, ratio)])
    found = find(select_runs([path.parent]))
    assert "SSE-SAM > {SAM, SGD}; bounds disjoint in 2 of 3 pairs" in found.comparisons[0]


def test_several_seeds_are_compared_as_methods(seeds_study):
    found = find(select_runs([seeds_study]))
    assert "SSE-SAM (all 3) > " in found.comparisons[0]
    assert "chance alone brings about once in 20" in found.limits[0]


def test_two_seeds_are_too_few(make_run):
    for method in METHODS:
        for seed in range(2):
            path = make_run(method, seed=seed)
    found = find(select_runs([path.parent]))
    assert found.limits[0].startswith("2 training seeds for a method support no claim")
    between = [claim for claim in found.claims if claim.source.startswith(("Fig", "Table"))]
    assert {claim.verdict for claim in between} == {"undecided"}


def test_nothing_measured_and_nothing_read(make_run):
    assert "nothing can be said" in find(select([])).paragraph
    found = find(select_runs([make_run("sam", spectrum=False)]))
    assert "No spectrum was measured" in found.paragraph
    assert found.comparisons == ()


def test_runs_that_differ_in_more_than_method_decide_nothing(make_run):
    make_run("sam", extra="batch_size = 64")
    path = make_run("sgd", extra="batch_size = 128")
    found = find(select_runs([path.parent]))
    assert "The runs differ in more than method and seed: training.batch_size." in found.limits
    assert found.comparisons == ()  # nor put into an order under a figure


def test_what_is_kept_on_the_way_is_no_difference(make_run):
    make_run("sam", extra="checkpoint_every = 2\nlosses_every = 1\nnorms_every = 5")
    found = find(select_runs([make_run("sgd").parent]))
    assert not any("differ in more than" in sentence for sentence in found.limits)
    assert found.comparisons


def test_keys_that_differ_are_named_whole(make_run):
    words = [f"something_or_other_number_{i}" for i in range(5)]
    make_run("sam", extra="\n".join(f"{word} = 1" for word in words))
    path = make_run("sgd", extra="\n".join(f"{word} = 2" for word in words))
    (limit,) = [s for s in find(select_runs([path.parent])).limits if "differ in more" in s]
    assert limit.endswith(", ".join(f"training.{word}" for word in words[:3]) + ", ….")


def test_unfinished_runs_and_settings_of_a_method_are_named(make_run):
    make_run("sam", info={"state": "running"})
    path = make_run("sgd")
    assert "Not finished: sam-seed0." in find(select_runs([path.parent])).limits
    make_run("sam", name="again", extra="[method.more]\nrho = 1")
    make_run("sam")
    found = find(select_runs([path.parent]))
    assert "Some method was run with more than one setting of its own." in found.limits


def test_of_a_single_run_nothing_is_compared(make_run):
    found = find(select_runs([make_run("sam", info={"state": "running"})]))
    assert "cannot be compared" not in found.paragraph
    assert "Not finished: sam-seed0." in found.limits


def test_runs_that_differ_in_their_seed_alone_are_compared(seeds_study):
    """Their recipes name it in [training]; it must not count as another setting."""
    chosen = select_runs([seeds_study])
    assert len({run.recipe["training"]["seed"] for run in chosen.runs}) == 3
    found = find(chosen)
    assert not any("differ in more than" in sentence for sentence in found.limits)
    assert any(claim.verdict == "supported" for claim in found.claims if "Fig. 4" in claim.source)


@pytest.mark.parametrize(
    ("network", "said"),
    [("resnet20", True), ("tiny", False), ('resnet20"\nclassifier = "cosine', False)],
)
def test_what_a_relu_networks_lambda_min_means_is_said_of_those_alone(make_run, network, said):
    path = make_run("sgd")
    recipe = path / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('name = "tiny"', f'name = "{network}"'))
    limits = find(select_runs([path])).limits
    assert any("comes with the architecture" in sentence for sentence in limits) == said


@pytest.mark.parametrize("operator", ["hessian-minus-gauss-newton", "gauss-newton", "hessian"])
def test_a_part_of_the_hessian_says_nothing_of_a_saddle(make_run, operator):
    rows = [
        spectrum_row("sgd", "class", str(c), 50, 8.0) | {"operator": operator} for c in range(3)
    ]
    chosen = select_runs([make_run("sgd", rows=rows)])
    paragraph, text = find(chosen).paragraph, summary_text(chosen)
    whole = operator == "hessian"
    assert ("loss curves down" in paragraph) is whole
    assert ("says nothing of a saddle" in paragraph) is not whole
    assert ("further from a saddle" in text) is whole


@pytest.mark.parametrize("level", [0.9999999, 1 - 1e-12, 0.99999951])
def test_no_probability_is_called_certain(make_run, level):
    rows = [spectrum_row("sgd", "class", str(c), 50, 8.0) | {"confidence": level} for c in range(3)]
    chosen = select_runs([make_run("sgd", rows=rows)])
    said = " ".join((find(chosen).paragraph, *find(chosen).limits, chosen.scope()))
    shown = [float(found) for found in re.findall(r"([0-9.]+) %", said)]
    assert shown
    assert all(found < 100 for found in shown)
    assert 99.9999 < max(shown) <= 100 * level
