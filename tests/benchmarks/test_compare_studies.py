"""Training steps, precision, scaling and peaks: the parts beside the comparison itself."""

import sys

import numpy as np
import pytest
import torch

from benchmarks.compare import Cases, Record, carry_out, find_truth
from benchmarks.compare.ends import gradient_seconds
from benchmarks.compare.precision import plain_product, precision_units
from benchmarks.compare.scaling import SERIES, _ranks, scaling_units, slope
from benchmarks.compare.steps import REFERENCE, _TwoStep, measure_steps, method_steps, random_data
from saddlescope.curvature import HessianOperator
from saddlescope.runs import METHODS

CPU = torch.device("cpu")


def test_the_two_step_reference_takes_the_same_step_as_sam():
    """One step from the same weights on the same images: the weights agree to rounding."""
    data = random_data(CPU)
    ours, theirs = method_steps("sam", "resnet8", data), _TwoStep("resnet8", CPU)
    theirs.model.load_state_dict(ours.model.state_dict())
    before = [p.detach().clone() for p in ours.model.parameters()]
    indices = torch.arange(64)
    images = next(ours.images([indices]))
    theirs.step(images, data.train.labels[indices])
    ours.take(indices, images)
    moved = 0.0
    for left, right, start in zip(
        ours.model.parameters(), theirs.model.parameters(), before, strict=True
    ):
        assert torch.allclose(left, right, rtol=1e-4, atol=1e-7)
        moved += float((left.detach() - start).abs().max())
    assert moved > 1e-3


def test_steps_are_measured_for_every_method():
    found = measure_steps("resnet8", CPU, rounds=1)
    assert [row["method"] for row in found["rows"]] == [*METHODS, REFERENCE]
    assert all(row["seconds"] > 0 for row in found["rows"])
    by_method = {row["method"]: row for row in found["rows"]}
    # The count of passes, not the seconds: SAM's two, of each kind.
    assert (by_method["sam"]["forwards"], by_method["sam"]["backwards"]) == (2, 2)
    assert by_method["sam"]["least"] == pytest.approx(2.0)


def test_plain_products_are_the_instruments_in_float32_and_not_in_bfloat16():
    problem = Cases().problem("mlp")
    operator = HessianOperator(problem.model, problem.criterion, problem.batches())
    vector = torch.randn(problem.size, generator=torch.Generator().manual_seed(0))
    exact = operator.matvec(vector)

    def error(precision):
        found = plain_product(problem, precision)(vector)
        return float((found - exact).norm() / exact.norm())

    assert error("float32") < 1e-5
    assert error("bfloat16") > 1e-3


def test_precision_units_tell_the_error_and_the_refusal(tmp_path):
    class Plan:
        def units(self):
            return precision_units(Cases(), "mlp")

    record = Record(tmp_path / "bench.json", device="cpu")
    carry_out(Plan(), record)
    assert record["precision/mlp/float32"]["min_error"] < 0.01
    assert record["precision/mlp/float32"]["converged"]
    assert record["precision/mlp/float32"]["product_error"] < 1e-5
    assert record["precision/mlp/bfloat16"]["product_error"] > 1e-3
    assert "bfloat16" in record["precision/mlp/refusal"]["message"]
    assert "precision/mlp/tf32" not in record


def test_slope_is_the_power():
    sizes = [10.0, 20.0, 40.0]
    assert slope(sizes, [3.0 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_every_series_has_a_unit_for_every_value():
    keys = {unit.key for unit in scaling_units(Cases())}
    assert keys == {f"scaling/{name}/{v}" for name, (values, _) in SERIES.items() for v in values}


@pytest.mark.parametrize("name", ["parameters", "basis"])
def test_a_point_of_a_series_is_measured(name):
    units = {unit.key: unit for unit in scaling_units(Cases())}
    found = units[f"scaling/{name}/{SERIES[name][0][0]}"].measure(None)
    assert found["seconds"] > 0
    assert found["value"] == SERIES[name][0][0]


@pytest.mark.slow
def test_two_ranks_share_a_product():
    assert _ranks(2, CPU, samples=4)["seconds"] > 0


def test_a_gradient_is_timed_often_enough():
    problem = Cases().problem("mlp")
    found = gradient_seconds(problem, least=0.0)
    assert len(found) == 1
    assert len(gradient_seconds(problem)) == 20
    assert np.min(found) > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peaks_are_measured_in_a_process_of_their_own():
    from benchmarks.compare import TOOLS
    from benchmarks.compare.peak import memory_units

    units = list(memory_units(["digits"], [TOOLS["saddlescope"]], runs=(), data_root=None,
                              device="cpu"))  # fmt: skip
    assert [unit.key for unit in units] == [
        "memory/digits/gradient", "memory/digits/saddlescope",
        "memory/digits/saddlescope (streamed)",
    ]  # fmt: skip
    gradient, ours, streamed = (unit.measure(None)["peak_bytes"] for unit in units)
    # 438 images of 8x8 in 16 to 64 channels: what a product keeps is more than a gradient does.
    assert 2**20 < gradient < streamed < 1.1 * ours < 2**31


def test_truth_of_the_dense_case_is_dense():
    assert "dense" in find_truth(Cases().problem("mlp")).means
