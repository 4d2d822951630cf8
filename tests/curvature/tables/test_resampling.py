"""Bootstrap intervals: against closed forms per resample, determinism, order, coverage."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from saddlescope.curvature import TensorSamples, bootstrap_spectra, class_spectra, select_subsets
from saddlescope.curvature.seeds import derived_seed
from saddlescope.errors import UsageError
from tests.curvature.networks import convolutional, images

LAMBDAS = ("lambda_max", "lambda_min", "lambda_ratio")


class Scale(nn.Module):
    """x ↦ w·x: under the squared error λ_max = λ_min = 2·mean(x²), in closed form."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x):
        return self.w * x


def squared(outputs, targets):
    return outputs.square().mean()


def scalars(n, seed, classes=1):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, generator=generator, dtype=torch.float64)
    return TensorSamples(values, torch.arange(n) % classes, {"odd": (1,), "both": (0, 1)})


def subset_of(samples, name):
    chosen = select_subsets(samples, groups=("all",) if name == "all" else ())
    return next(subset for subset in chosen if subset.name == name)


def network_row(name="1", **options):
    inputs, targets = images(30)
    samples = TensorSamples(inputs, targets)
    return bootstrap_spectra(
        convolutional(), nn.CrossEntropyLoss(), samples, subset_of(samples, name), **options
    )


def test_softmax_regression_resamples_have_the_closed_form():
    """λ_max of mean_i (diag p_i − p_i p_iᵀ) ⊗ x_i x_iᵀ over each resample, drawn again here."""
    torch.manual_seed(0)
    model = nn.Linear(3, 3, bias=False).double()
    inputs, targets = torch.randn(24, 3).double(), torch.arange(24) % 3
    samples = TensorSamples(inputs, targets)
    row = bootstrap_spectra(
        model,
        nn.CrossEntropyLoss(),
        samples,
        subset_of(samples, "2"),
        resamples=19,
        rtol=1e-9,
        atol=0.0,
    )
    mine = inputs[targets == 2]
    p = torch.softmax(model(mine), 1).detach()
    terms = torch.einsum(
        "nab,ni,nj->naibj", torch.diag_embed(p) - p[:, :, None] * p[:, None], mine, mine
    ).reshape(8, 9, 9)
    assert row.n == 8
    assert row.lambda_max == pytest.approx(torch.linalg.eigvalsh(terms.mean(0))[-1].item())
    generator = torch.Generator().manual_seed(derived_seed(0, "bootstrap", "class", "2"))
    wanted = [
        torch.linalg.eigvalsh(terms[torch.randint(0, 8, (8,), generator=generator)].mean(0))[
            -1
        ].item()
        for _ in range(19)
    ]
    np.testing.assert_allclose(row.draws[:, 0], wanted, rtol=1e-7)
    # Semidefinite: λ_min is 0 in every resample, so the ratio is unresolved and says so.
    assert math.isnan(row.lambda_ratio)
    assert row.lambda_ratio_bootstrap_upper == math.inf


def test_same_seed_same_row_other_seed_other_draws():
    one, two = network_row(), network_row()
    assert one == two
    np.testing.assert_array_equal(one.draws, two.draws)
    other = network_row(seed=1)
    assert not np.allclose(other.draws[:, 0], one.draws[:, 0])
    assert other.lambda_max == pytest.approx(one.lambda_max, rel=1e-2)
    longer = network_row(resamples=25)
    np.testing.assert_array_equal(longer.draws[:20], one.draws)


def test_batch_size_changes_nothing():
    np.testing.assert_allclose(
        network_row(batch_size=3, rtol=1e-8).draws, network_row(rtol=1e-8).draws, rtol=1e-7
    )


def test_intervals_are_order_statistics_and_named_apart_from_the_numerical_ones():
    row = network_row(resamples=39, level=0.9)
    for index, name in enumerate(LAMBDAS):
        ordered = np.sort(row.draws[:, index])
        lower = getattr(row, f"{name}_bootstrap_lower")
        upper = getattr(row, f"{name}_bootstrap_upper")
        assert (lower, upper) == (ordered[1], ordered[-2])  # ⌊40·0.05⌋ = 2nd from either side
    wide, narrow = network_row(resamples=39, level=0.95), row
    assert wide.lambda_max_bootstrap_lower <= narrow.lambda_max_bootstrap_lower
    assert wide.lambda_max_bootstrap_upper >= narrow.lambda_max_bootstrap_upper
    columns = row.columns()
    assert not {"lambda_max_lower", "lambda_min_upper", "draws", "ends"} & set(columns)
    assert columns["bootstrap_matvecs"] > 39
    assert columns["bootstrap_unconverged"] == 0
    assert columns["lambda_max_bootstrap_bias"] == pytest.approx(
        row.draws[:, 0].mean() - row.lambda_max
    )


def test_the_measured_value_is_that_of_the_table():
    inputs, targets = images(30)
    table = class_spectra(convolutional(), nn.CrossEntropyLoss(), TensorSamples(inputs, targets))
    measured = table.set_index("name").loc["1"]
    row = network_row()
    for name in (*LAMBDAS, "n"):
        assert getattr(row, name) == measured[name]
    assert row.ends.noise == measured["noise"]


def test_resampling_pushes_both_ends_outwards():
    """Jensen: E λ_max(H*) >= λ_max(H) and E λ_min(H*) <= λ_min(H)."""
    row = network_row("all", resamples=60)
    assert row.lambda_max_bootstrap_bias > 0
    assert row.lambda_min_bootstrap_bias < 0


def test_coverage_of_a_known_curvature():
    """Of 90 % intervals for 2·E x² = 2 from 40 normal x about 85 % hit: x² is skewed."""
    hits, trials = 0, 30
    for seed in range(trials):
        samples = scalars(40, seed)
        row = bootstrap_spectra(
            Scale(), squared, samples, subset_of(samples, "0"), resamples=19, seed=seed
        )
        assert row.lambda_max == pytest.approx(row.lambda_min, rel=1e-12)
        hits += row.lambda_max_bootstrap_lower <= 2.0 <= row.lambda_max_bootstrap_upper
    # Three standard deviations of a binomial proportion below 0.85.
    assert hits / trials >= 0.65


def test_groups_are_drawn_within_their_classes():
    """A class whose samples are all alike contributes the same to every resample."""
    values = torch.cat([torch.full((6,), 3.0), torch.zeros(2)]).double()
    targets = torch.tensor([0] * 6 + [1] * 2)
    samples = TensorSamples(values, targets)
    row = bootstrap_spectra(Scale(), squared, samples, subset_of(samples, "all"))
    np.testing.assert_allclose(row.draws[:, 0], 2 * 9.0 * 6 / 8, rtol=1e-12)
    assert row.lambda_max_bootstrap_lower == pytest.approx(row.lambda_max_bootstrap_upper)


def test_refusals():
    samples = TensorSamples(torch.ones(3, dtype=torch.float64), torch.tensor([0, 0, 1]))
    single = subset_of(samples, "1")
    with pytest.raises(UsageError, match=r"class '1' has 1 sample, .*the same set each time"):
        bootstrap_spectra(Scale(), squared, samples, single)
    several = subset_of(samples, "0")
    with pytest.raises(UsageError, match=r"resamples = 10 .*at least 19"):
        bootstrap_spectra(Scale(), squared, samples, several, resamples=10)
    with pytest.raises(UsageError, match=r"level = 1\.0"):
        bootstrap_spectra(Scale(), squared, samples, several, level=1.0)
