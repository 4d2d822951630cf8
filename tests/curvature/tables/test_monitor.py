"""The monitor follows a training run, changes nothing in it, and saves products."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import nn

from saddlescope.curvature import CurvatureMonitor, TensorSamples, extreme_eigenvalues
from saddlescope.errors import UsageError
from tests.curvature.krylov.test_bounds import KINDS, random_spectrum
from tests.curvature.krylov.test_restart import Diagonal
from tests.curvature.networks import convolutional, dense_hessian, images

SAMPLES = TensorSamples(*images(40), {"tail": (2, 3)})


def training(monitor, *, epochs=5, resume_at=None):
    """Noisy steps in train mode with dropout; returns the weights."""
    model = convolutional(dropout=0.3).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    torch.manual_seed(7)
    for epoch in range(epochs):
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(SAMPLES.values), SAMPLES.targets).backward()
            optimizer.step()
        if monitor is not None:
            monitor(model, epoch)
            assert model.training
    return model


def test_training_is_the_same_to_the_bit_with_and_without_it():
    monitor = CurvatureMonitor(nn.CrossEntropyLoss(), SAMPLES, groups=("all", "tail"))
    watched, alone = training(monitor), training(None)
    for key, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[key]), key
    assert len(monitor.rows) == 10


def test_rows_hold_the_truth_of_their_epoch():
    monitor = CurvatureMonitor(nn.CrossEntropyLoss(), SAMPLES, classes=[1], every=4, rtol=1e-7)
    model = training(monitor).eval()
    frame = monitor.frame()
    assert frame["epoch"].tolist() == [0, 0, 4, 4]
    keep = SAMPLES.targets == 1
    truth = torch.linalg.eigvalsh(
        dense_hessian(
            model, lambda f: F.cross_entropy(f(SAMPLES.values[keep]), SAMPLES.targets[keep])
        )
    )
    last = frame.iloc[-1]
    assert last["lambda_min"] == pytest.approx(truth[0].item(), rel=1e-6)
    assert last["lambda_max"] == pytest.approx(truth[-1].item(), rel=1e-6)


def test_state_dict_makes_a_resumed_monitor_measure_the_same():
    def make():
        return CurvatureMonitor(nn.CrossEntropyLoss(), SAMPLES)

    whole = make()
    model = training(whole, epochs=3)
    first, second = make(), make()
    training(first, epochs=2)
    second.load_state_dict(first.state_dict())
    second(model, 2)
    assert second.rows[-1] == whole.rows[-1]


def test_warm_start_near_the_answer_saves_products_and_keeps_the_bounds():
    spectrum = random_spectrum("uniform", 3000, np.random.default_rng(0))
    cold = extreme_eigenvalues(Diagonal(spectrum), eigenvectors=True, seed=1)
    guess = cold.eigenvectors.sum(0)
    warm = extreme_eigenvalues(Diagonal(spectrum), warm_start=guess, seed=2)
    assert warm.matvecs < 0.6 * cold.matvecs
    assert warm.lambda_min.lower <= spectrum.min() <= warm.lambda_min.upper + 1e-12


def test_warm_intervals_miss_no_more_often_than_stated():
    """Even from the worst guess: orthogonal to both ends' eigenvectors."""
    misses = trials = 0
    for kind in KINDS:
        for seed in range(100):
            spectrum = random_spectrum(kind, 60, np.random.default_rng(seed))
            guess = torch.ones(60, dtype=torch.float64)
            guess[[int(spectrum.argmin()), int(spectrum.argmax())]] = 0.0
            ends = extreme_eigenvalues(
                Diagonal(spectrum), confidence=0.9, seed=seed, max_matvecs=12, warm_start=guess
            )
            misses += not (
                ends.lambda_max.lower <= spectrum.max() <= ends.lambda_max.upper
                and ends.lambda_min.lower <= spectrum.min() <= ends.lambda_min.upper
            )
            trials += 1
    assert binomtest(misses, trials, 0.1, alternative="greater").pvalue > 1e-3


def test_refusals():
    with pytest.raises(UsageError, match="every = 0"):
        CurvatureMonitor(nn.CrossEntropyLoss(), SAMPLES, every=0)
    with pytest.raises(UsageError, match="warm_start has shape"):
        extreme_eigenvalues(Diagonal([1.0, 2.0]), warm_start=torch.ones(3))


def test_a_layer_that_is_frozen_between_two_checks_changes_what_is_measured():
    monitor = CurvatureMonitor(nn.CrossEntropyLoss(), SAMPLES)
    model = convolutional()
    monitor(model, 0)
    next(model.parameters()).requires_grad_(requires_grad=False)
    monitor(model, 1)
    rest = [p for p in model.eval().parameters() if p.requires_grad]
    fresh = CurvatureMonitor(nn.CrossEntropyLoss(), SAMPLES, parameters=rest)
    fresh(model, 1)
    assert monitor.rows[1]["lambda_max"] == pytest.approx(fresh.rows[0]["lambda_max"], rel=1e-4)
