import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saddlescope.errors import UsageError
from saddlescope.longtail import class_counts, head_tail, shots

CIFAR100 = class_counts(num_classes=100, largest=500, imbalance_factor=100)
CIFAR100_50 = class_counts(num_classes=100, largest=500, imbalance_factor=50)
CIFAR10 = class_counts(num_classes=10, largest=5000, imbalance_factor=100)


def test_cifar100_tail_is_the_released_codes():
    head, tail = head_tail(CIFAR100, tail_threshold=100)
    assert head == tuple(range(35))
    assert tail == tuple(range(35, 100))
    assert sum(CIFAR100[c] for c in tail) / sum(CIFAR100) == pytest.approx(0.1865, abs=5e-5)
    assert head_tail(CIFAR100, tail_threshold=20)[1] == tuple(range(70, 100))


@pytest.mark.parametrize(
    ("counts", "many_above", "few_below", "sizes"),
    [
        (CIFAR100, 100, 20, (35, 35, 30)),
        (CIFAR100_50, 100, 20, (41, 41, 18)),
        (CIFAR10, 1000, 200, (4, 3, 3)),
    ],
)
def test_shots_have_the_papers_sizes(counts, many_above, few_below, sizes):
    split = shots(counts, many_above=many_above, few_below=few_below)
    assert tuple(len(split[name]) for name in ("many", "medium", "few")) == sizes


def test_borders_belong_to_medium():
    split = shots((101, 100, 20, 19), many_above=100, few_below=20)
    assert split == {"many": (0,), "medium": (1, 2), "few": (3,)}


def test_a_shot_may_be_empty():
    assert shots((50, 40), many_above=100, few_below=20)["many"] == ()


def test_overlapping_shots_are_refused():
    assert shots((5, 4), many_above=4, few_below=5) == {"many": (0,), "medium": (), "few": (1,)}
    with pytest.raises(UsageError, match="few_below=6 and many_above=4 overlap"):
        shots((5, 4), many_above=4, few_below=6)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=8), st.integers(-2, 40))
def test_every_class_is_in_one_half_or_the_message_gives_thresholds_that_work(counts, threshold):
    if min(counts) < threshold <= max(counts):
        head, tail = head_tail(counts, tail_threshold=threshold)
        assert sorted(head + tail) == list(range(len(counts)))
        assert max(counts[c] for c in tail) < threshold <= min(counts[c] for c in head)
        return
    with pytest.raises(UsageError, match=f"tail_threshold={threshold}") as caught:
        head_tail(counts, tail_threshold=threshold)
    if min(counts) == max(counts):
        assert "raise imbalance_factor" in str(caught.value)
        return
    for text in re.search(r"choose from (\d+) to (\d+)", str(caught.value)).groups():
        head, tail = head_tail(counts, tail_threshold=int(text))
        assert head
        assert tail
