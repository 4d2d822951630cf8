"""An objective whose samples lie on several ranks is the one whose samples lie together."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from saddlescope.curvature import (
    GaussNewtonOperator,
    HessianOperator,
    LinearCombination,
    Programs,
    SharedBatches,
    SharedSamples,
    TensorSamples,
    WeingartenOperator,
    class_spectra,
    extreme_eigenvalues,
    spectral_density,
    top_eigenpairs,
)
from saddlescope.curvature.krylov import extreme
from saddlescope.curvature.krylov.lanczos import Lanczos, random_start
from saddlescope.curvature.products import strategy
from saddlescope.parallel import ALONE
from tests.curvature.networks import convolutional, images, split_batches
from tests.curvature.processes import on_ranks

WEIGHTS = torch.tensor([1.0, 0.3, 2.0, 0.7], dtype=torch.float64)
OBJECTIVES = {
    "mean": (nn.CrossEntropyLoss(), {}),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHTS), {}),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), {"weight_decay": 0.1}),
    "L2": (nn.CrossEntropyLoss(), {"weight_decay": 0.1}),
}
"""Ways to weight samples, with which the parts of a whole could be added up wrongly."""

SIZES = (5, 1, 4), (3,), ()
"""Samples a batch on each of three ranks; the last has none."""


def everything(data):
    return split_batches(data, *SIZES[0], *SIZES[1])


def mine(data, ranks):
    before = sum(len(sizes) for sizes in SIZES[: ranks.rank])
    return SharedBatches(everything(data)[before : before + len(SIZES[ranks.rank])], ranks)


def look_at(operator):
    probe = torch.linspace(-1, 1, operator.size, dtype=operator.dtype)
    product = operator.matvec(probe)
    operator.verify()
    return {
        "loss": operator.loss,
        "gradient": operator.gradient.numpy(),
        "product": product.numpy(),
        "n": operator.objective.n,
        "cost": operator.gradient_cost,
        "retained": operator.retained,
    }


def look_at_all(batches):
    model = convolutional()
    found = {
        (name, kind.__name__, budget): look_at(
            kind(model, criterion, batches, memory_budget=budget, **options)
        )
        for name, (criterion, options) in OBJECTIVES.items()
        for kind in (HessianOperator, GaussNewtonOperator)
        for budget in (None, 0)
    }
    programs = Programs("traced")
    traced = HessianOperator(model, nn.CrossEntropyLoss(), batches, programs=programs)
    return found | {("mean", "traced", None): look_at(traced)}


def on_shared_batches(ranks, look):
    return look(mine(images(13), ranks))


def test_loss_gradient_and_products_are_those_of_the_whole():
    whole = look_at_all(everything(images(13)))
    for found in on_ranks(3, on_shared_batches, look_at_all):
        assert found.keys() == whole.keys()
        for key, expected in whole.items():
            for name, value in expected.items():
                error = np.abs(np.asarray(found[key][name]) - np.asarray(value)).max()
                assert error <= 1e-12 * max(1.0, np.abs(value).max()), (key, name)


def measure(batches):
    """What the verbs of the instrument say, as plain numbers."""
    H = HessianOperator(convolutional(), nn.CrossEntropyLoss(), batches)
    G = GaussNewtonOperator.from_objective(H.objective)
    found = []
    for operator in (H, WeingartenOperator(H), LinearCombination([(1.0, H), (-1.0, G)])):
        ends = extreme_eigenvalues(operator, rtol=1e-3, basis_memory=20 * 8 * H.size)
        found += [ends.lambda_max.value, ends.lambda_min.value, ends.lambda_min.lower]
        found += [ends.matvecs]
    found += top_eigenpairs(H, k=3, seed=0).values.tolist()
    found += spectral_density(H, probes=2, steps=8).nodes.ravel().tolist()
    return found


def test_every_verb_gives_one_answer_on_all_ranks():
    whole = measure(everything(images(13)))
    first, *others = on_ranks(3, on_shared_batches, measure)
    assert first == pytest.approx(whole, rel=1e-9, abs=1e-9)
    assert all(other == first for other in others)


def in_single_precision(batches):
    data = [(inputs.float(), targets) for inputs, targets in batches]
    if isinstance(batches, SharedBatches):
        data = SharedBatches(data, batches.ranks)
    H = HessianOperator(convolutional(dtype=torch.float32), nn.CrossEntropyLoss(), data)
    ends = extreme_eigenvalues(H)
    exact = H.reference()
    assert exact is not None
    assert exact.dtype == torch.float64
    return ends.lambda_max.value, ends.lambda_min.value, ends.noise, exact.loss


def test_single_precision_to_rounding_with_its_noise_measured():
    whole = in_single_precision(everything(images(13)))
    first, *others = on_ranks(3, on_shared_batches, in_single_precision)
    assert first[:2] == pytest.approx(whole[:2], rel=1e-5)
    assert 0.2 * whole[2] < first[2] < 5 * whole[2]
    assert first[3] == pytest.approx(whole[3], rel=1e-12)
    assert all(other == first for other in others)


def sampled_noise(ranks):
    """Noise that is seen on some samples, where the inputs of one rank cannot be cut."""
    strategy.BRANCHES_COUNT_UP_TO = 10
    whole = split_batches(images(60, dtype=torch.float32), *[15] * 4)
    batches = whole[2 * ranks.rank : 2 * ranks.rank + 2]
    if ranks.rank == 1:
        batches = [((inputs,), targets) for inputs, targets in batches]
    model, programs = convolutional(dtype=torch.float32), Programs("traced")
    shared = SharedBatches(batches, ranks)
    H = HessianOperator(model, nn.CrossEntropyLoss(), shared, programs=programs)
    return H.products.exact, extreme_eigenvalues(H).noise


def test_samples_for_the_noise_are_chosen_on_all_ranks_or_on_none():
    first, second = on_ranks(2, sampled_noise)
    assert first == second
    assert first[0] is False


def rounding_apart(ranks):
    """Products that differ from rank to rank, more than any rounding."""
    H = HessianOperator(convolutional(), nn.CrossEntropyLoss(), mine(images(13), ranks))
    exact = H.matvec
    H.matvec = lambda v: exact(v) * (1 + 1e-5 * ranks.rank)
    ends = extreme_eigenvalues(H, noise=0.0)
    return ends.lambda_max.value, ends.lambda_min.value, ends.matvecs


def stopping_apart(ranks):
    """Residuals that call for an early stop on rank 1 and for a late one on rank 2."""
    H = HessianOperator(convolutional(), nn.CrossEntropyLoss(), mine(images(13), ranks))
    exact, factor = extreme._ritz, [1.0, 0.0, 1e3][ranks.rank]

    def ritz(lanczos):
        theta, weights = exact(lanczos)
        return theta, factor * weights

    extreme._ritz = ritz
    return extreme_eigenvalues(H, noise=0.0).matvecs


def turning_apart(ranks):
    """Eigenvectors of T with other signs, and other last digits, on each rank."""
    H = HessianOperator(convolutional(), nn.CrossEntropyLoss(), mine(images(13), ranks))
    iteration = Lanczos(H, random_start(H.size, seed=0), capacity=12)
    exact = iteration.eigh

    def eigh():
        values, vectors = exact()
        return values * (1 + 1e-7 * ranks.rank), vectors * (-1) ** ranks.rank

    iteration.eigh = eigh
    for _ in range(30):
        if iteration.full:
            iteration.restart()
        iteration.step()
    return iteration.dropped[-1], float(np.abs(iteration.projected).sum()), iteration.betas[-1]


def remembering_apart(ranks):
    """Another memory on each rank."""
    H = HessianOperator(convolutional(), nn.CrossEntropyLoss(), mine(images(13), ranks))
    room = (10 + 7 * ranks.rank) * 8 * H.size
    ends = extreme_eigenvalues(H, noise=0.0, rtol=1e-7, basis_memory=room)
    return ends.matvecs, ends.lambda_min.value


@pytest.mark.parametrize(
    "function", [rounding_apart, stopping_apart, turning_apart, remembering_apart]
)
def test_ranks_that_would_decide_differently_follow_one(function):
    found = on_ranks(3, function)
    assert found == [found[0]] * 3
    if function is turning_apart:
        return
    whole = HessianOperator(convolutional(), nn.CrossEntropyLoss(), everything(images(13)))
    ends = extreme_eigenvalues(whole, noise=0.0)
    least = extreme_eigenvalues(whole, noise=0.0, rtol=1e-7, basis_memory=10 * 8 * whole.size)
    assert least.matvecs > 9  # more than fit, so that it was restarted
    expected = {
        rounding_apart: (ends.lambda_max.value, ends.lambda_min.value, ends.matvecs),
        stopping_apart: ends.matvecs,
        remembering_apart: (least.matvecs, least.lambda_min.value),
    }
    assert found[0] == pytest.approx(expected[function], rel=1e-9)


def of_shared_data(ranks):
    data = SharedSamples(TensorSamples(*images(13), groups={"few": [3]}), ranks)
    return class_spectra(convolutional(), nn.CrossEntropyLoss(), data, groups=("all", "few"))


def test_table_of_shared_samples():
    data = TensorSamples(*images(13), groups={"few": [3]})
    whole = class_spectra(convolutional(), nn.CrossEntropyLoss(), data, groups=("all", "few"))
    first, second = on_ranks(2, of_shared_data)
    assert first.equals(second)
    assert first["n"].tolist() == whole["n"].tolist()
    for column in ("lambda_max", "lambda_min", "gradient_norm", "gradient_cost"):
        assert first[column].tolist() == pytest.approx(whole[column].tolist(), rel=1e-10)


def test_one_process_alone_reduces_nothing():
    tensor = torch.arange(3.0)
    assert ALONE.total(tensor) is tensor
    assert ALONE.totals(1, 2) == [1, 2]
    assert (ALONE.least(2.5), ALONE.any(False), ALONE.all(True)) == (2.5, False, True)
    assert ALONE.slice(tensor) is not None
    shared = SharedBatches(iter(everything(images(13))), ALONE)
    H = HessianOperator(convolutional(), nn.CrossEntropyLoss(), shared)
    assert H.objective.n == 13
    assert copy.copy(H).ranks is ALONE
