import pytest
from hypothesis import given
from hypothesis import strategies as st

from saddlescope.errors import UsageError
from saddlescope.longtail import class_counts


def test_cifar10_at_100_is_the_released_code():
    counts = class_counts(num_classes=10, largest=5000, imbalance_factor=100)
    assert counts == (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    assert sum(counts) == 12_406


@pytest.mark.parametrize(("factor", "total"), [(100, 10_847), (50, 12_608)])
def test_cifar100_totals_are_the_released_code(factor, total):
    counts = class_counts(num_classes=100, largest=500, imbalance_factor=factor)
    assert sum(counts) == total
    assert counts[0] == 500
    assert counts[99] == 500 // factor
    if factor == 100:
        assert counts[80] == 12


def test_digits_at_20():
    counts = class_counts(num_classes=10, largest=130, imbalance_factor=20)
    assert counts == (130, 93, 66, 47, 34, 24, 17, 12, 9, 6)
    assert sum(counts) == 438


@given(
    num_classes=st.integers(2, 12),
    largest=st.integers(1, 5000),
    factor=st.integers(1, 1000),
)
def test_exponential_counts_are_exact_floors(num_classes, largest, factor):
    """n <= L / IF^(i/(C-1)) < n+1, to the power C-1 so that only integers are compared."""
    if factor > largest:
        with pytest.raises(UsageError):
            class_counts(num_classes=num_classes, largest=largest, imbalance_factor=factor)
        return
    counts = class_counts(num_classes=num_classes, largest=largest, imbalance_factor=factor)
    power = num_classes - 1
    for i, n in enumerate(counts):
        assert n**power * factor**i <= largest**power < (n + 1) ** power * factor**i


def test_whole_counts_survive_rounding():
    assert int(160 / 32 ** (4 / 5)) == 9  # on paper 160 / 16
    counts = class_counts(num_classes=6, largest=160, imbalance_factor=32)
    assert counts == (160, 80, 40, 20, 10, 5)


@given(num_classes=st.integers(2, 9), largest=st.integers(50, 500), factor=st.integers(1, 50))
def test_step_has_two_levels(num_classes, largest, factor):
    counts = class_counts(
        num_classes=num_classes, largest=largest, imbalance_factor=factor, profile="step"
    )
    half = num_classes // 2
    assert counts == (largest,) * half + (largest // factor,) * (num_classes - half)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "linear"}, "unknown profile 'linear': choose from exp, step"),
        ({"imbalance_factor": 0.5}, "imbalance_factor=0.5"),
        ({"imbalance_factor": float("nan")}, "imbalance_factor=nan"),
        ({"imbalance_factor": float("inf")}, "imbalance_factor=inf"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"largest": 0}, "largest=0"),
        ({"imbalance_factor": 501}, "class 9 would have no image; with largest=500"),
        ({"imbalance_factor": 501, "profile": "step"}, "class 5 would have no image"),
    ],
)
def test_arguments_that_cannot_be_meant(change, message):
    options = {"num_classes": 10, "largest": 500, "imbalance_factor": 100} | change
    with pytest.raises(UsageError, match=message):
        class_counts(**options)
