import numpy as np
import pytest

from saddlescope.errors import DataError, UsageError
from saddlescope.longtail import Cut, choose_subset

LABELS = np.random.default_rng(3).integers(0, 4, 200)
COUNTS = (30, 20, 9, 1)


def test_first_keeps_the_first_of_each_class_in_file_order():
    kept = choose_subset(LABELS, COUNTS)
    assert kept.dtype == np.int64
    seen = [0, 0, 0, 0]
    expected = []
    for position, label in enumerate(LABELS):
        seen[label] += 1
        if seen[label] <= COUNTS[label]:
            expected.append(position)
    assert kept.tolist() == expected


@pytest.mark.parametrize("seed", [0, 7])
def test_shuffled_is_ldam_drws_draw(seed):
    """LDAM-DRW seeds NumPy's global generator and shuffles class after class."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        np.random.seed(seed)  # noqa: NPY002
        expected = []
        for label, count in enumerate(COUNTS):
            positions = np.where(label == LABELS)[0]
            np.random.shuffle(positions)  # noqa: NPY002
            expected.extend(positions[:count].tolist())
    finally:
        np.random.set_state(state)  # noqa: NPY002
    kept = choose_subset(LABELS, COUNTS, Cut(subset="shuffled", subset_seed=seed))
    assert kept.tolist() == sorted(expected)
    assert kept.tolist() != choose_subset(LABELS, COUNTS).tolist()


def test_shuffled_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    choose_subset(LABELS, COUNTS, Cut(subset="shuffled"))
    assert (before == np.random.get_state()[1]).all()  # noqa: NPY002


def test_too_few_images_names_class_have_and_need():
    with pytest.raises(DataError, match="class 1 has 2 images, 3 are needed"):
        choose_subset([0, 0, 1, 1], (2, 3))


def test_an_unknown_scheme_is_named():
    with pytest.raises(UsageError, match="unknown subset 'last': choose from first, shuffled"):
        Cut(subset="last")
