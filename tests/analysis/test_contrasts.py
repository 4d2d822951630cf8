"""The study's statistics against SciPy, and against what few seeds cannot show."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[2] / "analysis"))
from contrasts import CONTRASTS, contrasts, holm


def drawn(shift, seeds, rng):
    return {s: float(np.exp(rng.normal(shift, 0.1))) for s in seeds}


def outcome(seeds=(1, 2, 3, 4, 5)):
    rng = np.random.default_rng(0)
    shifts = {"sgd": 0.0, "sam": -0.5, "imbsam": 0.05, "sam-ext": -0.3, "sse-sam": -0.2}
    return {method: drawn(shift, seeds, rng) for method, shift in shifts.items()}


def test_p_values_and_intervals_are_scipys():
    values = outcome()
    found = {(c.method, c.other): c for c in contrasts(values)}
    assert list(found) == [(a, b) for a, b, _ in CONTRASTS]
    for (method, other), contrast in found.items():
        one, two = (np.log(list(values[m].values())) for m in (method, other))
        paired = (method, other) == ("sse-sam", "sam-ext")
        wanted = stats.permutation_test(
            (one, two),
            lambda a, b, axis: a.mean(axis) - b.mean(axis),
            permutation_type="samples" if paired else "independent",
            vectorized=True,
            n_resamples=np.inf,
        )
        assert contrast.p == pytest.approx(wanted.pvalue)
        test = (stats.ttest_rel if paired else stats.ttest_ind)(
            one, two, **({} if paired else {"equal_var": False})
        )
        low, high = test.confidence_interval(0.95)
        assert (contrast.lower, contrast.upper) == pytest.approx((np.exp(low), np.exp(high)))
        assert contrast.ratio == pytest.approx(np.exp(one.mean() - two.mean()))
        assert contrast.lower < contrast.ratio < contrast.upper


@pytest.mark.parametrize(
    ("seeds", "free", "paired"), [(3, 0.1, 0.25), (4, 2 / 70, 0.125), (5, 2 / 252, 0.0625)]
)
def test_so_few_seeds_give_no_smaller_p(seeds, free, paired):
    values = {
        "sgd": {seed: 1.0 + 0.01 * seed for seed in range(seeds)},
        "sam": {seed: 9.0 + 0.2 * seed for seed in range(seeds)},
    }
    values["sam-ext"], values["sse-sam"] = values["sgd"], values["sam"]
    found = {(c.method, c.other): c for c in contrasts(values)}
    assert found["sam", "sgd"].p == pytest.approx(free)
    assert found["sam", "sgd"].least_p == pytest.approx(free)
    assert found["sse-sam", "sam-ext"].p == pytest.approx(paired)
    assert found["sse-sam", "sam-ext"].least_p == pytest.approx(paired)


def test_pairs_are_by_common_seeds():
    values = {"sse-sam": {1: 2.0, 2: 4.0, 7: 1e9}, "sam-ext": {1: 1.0, 2: 2.1, 8: 1e-9}}
    (contrast,) = contrasts(values)
    assert contrast.seeds == 2
    assert contrast.ratio == pytest.approx((2.0 * 4.0 / 2.1) ** 0.5)


def test_one_seed_supports_nothing():
    (contrast,) = contrasts({"sgd": {1: 1.0}, "sam": {1: 3.0}})
    assert (contrast.lower, contrast.upper, contrast.p) == (0.0, np.inf, 1.0)


def test_holm_is_the_step_down_procedure():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
