"""Single facts of the theory: thresholds, horizons, orders, families, known counterexamples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.errors import UsageError
from saddlescope.theory import (
    Terms,
    generalisation_bound,
    horizon_table,
    largest_horizon,
    threshold,
    walk,
    weingarten,
)
from saddlescope.theory import proposition3 as p3
from saddlescope.theory import proposition4 as p4
from saddlescope.theory import proposition5 as p5
from saddlescope.theory.curvature_of_graphs import observed_order, principal_curvatures
from saddlescope.theory.theorem1 import judge

positive = st.floats(1e-3, 1e3)


@given(slope=positive, eta=positive, rho=positive, mu=st.floats(1, 5))
def test_the_threshold_is_the_root_of_its_quadratic(slope, eta, rho, mu):
    x = threshold(*(np.array([v]) for v in (slope, eta, rho, mu)))[0]
    terms = (eta * rho / slope * x**2, (1 + mu) * eta * x, 2 + mu)
    assert terms[0] - terms[1] - terms[2] == pytest.approx(0, abs=1e-9 * max(terms))


def test_a_hypothesis_that_ends():
    """ "As t increases" can fail: it holds to t = 4 and not from t = 5 on."""
    instances = {
        "gradient": np.array([[1e-6, 0.3, 0.05]]),
        "eigenvalues": np.array([[-20.0, 0.0, 0.5]]),
        "eta": np.array([0.05]),
        "rho": np.array([0.5]),
        "mu": np.array([1.0]),
    }
    met = [bool(judge(instances, {"steps": t}).hypothesis[0]) for t in range(1, 9)]
    assert met == [True] * 4 + [False] * 4
    assert all(judge(instances, {"steps": t}).slack[0] > 0 for t in range(1, 9))


def test_a_horizon_takes_each_step_once(monkeypatch):
    """Quadratic in t it would be 500 times 500 steps a slack."""
    taken = []

    def counting(*arguments, **options):
        for state in walk(*arguments, **options):
            taken.append(1)
            yield state

    monkeypatch.setattr("saddlescope.theory.theorem1.walk", counting)
    (row,) = horizon_table([2], [1e-170])
    assert row["horizon"] == 522
    assert len(taken) < 7 * 2 * (row["limit"] + 5)


def test_a_horizon_is_the_last_t_that_is_judged_to_hold():
    for slack, mu, a in ((1.0001, 1.0, 0.1), (2.0, 2.5, 1e-6), (4.0, 1.0, 3.0)):
        steps = largest_horizon(3, 1e-9, a=a, mu=mu, slack=slack)
        rest = math.sqrt((1.0 - 1e-18) / 2)
        radius = slack * ((1.0 + mu) + (2.0 + mu) / a)
        instances = {
            "gradient": np.array([[1e-9, rest, rest]]),
            "eigenvalues": np.array([[-1.0, 0.0, 0.0]]),
            "eta": np.array([a]),
            "rho": np.array([radius]),
            "mu": np.array([mu]),
        }
        assert steps > 0
        assert judge(instances, {"steps": steps}).hypothesis[0]
        assert not judge(instances, {"steps": steps + 1}).hypothesis[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"a": 1e-320}, "a = .* too small or too large"),
        ({"a": 1e300}, "a = 1e.300 with mu = 1: too small or too large"),
        ({"mu": 1e200}, "with mu = 1e.200"),
        ({"dimensions": [2, 99999999999]}, "dimensions 2 to 99999999999: expected"),
    ],
)
def test_a_horizon_that_nothing_holds_is_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        horizon_table(**{"dimensions": [2], "alignments": [0.1], **changes})


def test_horizons_grow_with_the_logarithm_of_the_alignment():
    assert largest_horizon(1, 1e-6) == 0
    found = [largest_horizon(5, 10.0**-power) for power in (0.3, 2, 5, 10, 20)]
    assert found == sorted(found)
    assert found[0] == 0
    # |G_0| <= L(1 + μk)^(−t) with k = 1.1, μ = 1
    for power, horizon in zip((2, 5, 10, 20), found[1:], strict=True):
        assert 1 <= horizon <= power * math.log(10) / math.log(2.1)


def test_the_family_against_proposition_3():
    for imbalance in (10.0, 1e3, 1e6):
        found = p3.family(imbalance)
        head, tail = p3.squared_sizes(found)
        assert head / tail == pytest.approx(1.0)
        off = found["spread_head"] / found["spread_tail"] * imbalance**2
        assert off == pytest.approx(imbalance)


@given(q=st.floats(1e-6, 0.5), psi=st.floats(0, math.pi))
def test_cosines_of_plane_vectors(q, psi):
    head, tail = np.array([1.0, 0.0]), q * np.array([math.cos(psi), math.sin(psi)])
    whole = head + tail
    found = p4.cosines(np.array([q]), np.array([psi]))
    assert found[0][0] == pytest.approx(whole[0] / np.linalg.norm(whole), abs=1e-12)
    assert found[1][0] == pytest.approx(tail @ whole / (q * np.linalg.norm(whole)), abs=1e-9)


def test_orders_of_proposition_4s_expansion():
    head, tail = p4.observed_orders()
    assert head == pytest.approx(3, abs=0.05)
    assert tail == pytest.approx(2, abs=0.05)


def test_the_known_counterexample_to_proposition_5():
    instances = {
        "gradient": np.array([[1e-3, 1.0]]),
        "tail_gradient": np.array([[-0.01, 0.0]]),
        "eigenvalues": np.array([[-10.0, 0.0]]),
        "eta": np.array([0.01]),
        "rho": np.array([0.05]),
        "r": np.array([0.01]),
        "mu": np.array([1.0]),
    }
    found = p5.displacements(instances, 1)
    assert abs(found["sgd"][0]) == pytest.approx(1e-5, rel=1e-3)
    assert abs(found["sam"][0]) == pytest.approx(5e-6, rel=1e-3)
    assert abs(found["imbsam"][0]) == pytest.approx(6e-5, rel=1e-3)


def test_directions_of_the_graph_tend_to_those_of_the_hessian_quadratically():
    for seed in range(4):
        assert observed_order(seed=seed) == pytest.approx(2, abs=0.02)


def test_the_weingarten_map_of_a_paraboloid():
    """L = ½κw² has the curvature κ/(1 + κ²w²)^(3/2)."""
    kappa, w = 3.0, 0.7
    hessian, gradient = np.array([[kappa]]), np.array([kappa * w])
    wanted = kappa / (1 + (kappa * w) ** 2) ** 1.5
    assert weingarten(hessian, gradient)[0, 0] == pytest.approx(wanted, rel=1e-12)
    assert principal_curvatures(hessian, gradient)[0][0] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("length", "printed", "rooted"), [(10, 5.4e5, 72), (100, 7.8e5, 86)])
def test_theorem_6_is_vacuous_at_the_papers_size(length, printed, rooted):
    bound = generalisation_bound(
        Terms(loss=0.1, lambda_max=100.0, rho=0.05, parameters=21_328_292, samples=10_847,
              weight_norm=length),
        most=10.0,
    )  # fmt: skip
    assert bound.complexity == pytest.approx(printed, rel=0.01)
    assert bound.complexity_rooted == pytest.approx(rooted, rel=0.01)
    assert bound.vacuous
    parts = bound.loss + bound.curvature + bound.of_bounded_loss
    assert bound.printed == pytest.approx(parts + bound.complexity)
    assert bound.rooted == pytest.approx(parts + bound.complexity_rooted)


def test_theorem_6_says_something_of_a_tiny_model():
    bound = generalisation_bound(
        Terms(loss=0.1, lambda_max=1.0, rho=0.05, parameters=1, samples=10**6, weight_norm=0.1),
        most=1.0,
    )
    assert not bound.vacuous
    # The square root is the smaller only where the bracket exceeds n − 1's square root.
    assert bound.complexity < 0.05


def test_the_table_of_horizons():
    """The best over ρ: never above what |G_0| <= L·(1 + μk)^(−t) allows, none in one dimension."""
    rows = horizon_table([1, 2, 10], [0.5, 1e-2, 1e-10])
    assert [row["horizon"] for row in rows[:3]] == [0, 0, 0]
    assert [row["horizon"] for row in rows[3:6]] == [row["horizon"] for row in rows[6:]]
    assert [row["horizon"] for row in rows[3:6]] == [0, 4, 27]
    assert all(row["horizon"] <= row["limit"] for row in rows)
    assert rows[4]["horizon"] >= largest_horizon(2, 1e-2)
    with pytest.raises(UsageError, match="alignments"):
        horizon_table([2], [0.0])


def test_the_command_prints_them():
    done = CliRunner().invoke(
        app, ["theory", "horizons", "--dimensions", "1-2", "--alignments", "0.1"]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "dimension,alignment,horizon,limit",
        "1,0.1,0,3",
        "2,0.1,1,3",
    ]
    for wrong in (("--dimensions", "1.5"), ("--alignments", "x"), ("--a", "0")):
        assert CliRunner().invoke(app, ["theory", "horizons", *wrong]).exit_code == 2
