import math

import numpy as np
import pytest
import torch

from saddlescope.errors import DataError
from saddlescope.longtail import per_class_accuracy, shot_accuracy


def test_per_class_accuracy_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (300,), generator=generator)
    predictions = torch.randint(5, (300,), generator=generator)
    expected = []
    for c in range(5):
        pairs = [
            (p, q) for p, q in zip(predictions.tolist(), labels.tolist(), strict=True) if q == c
        ]
        expected.append(sum(p == q for p, q in pairs) / len(pairs))
    np.testing.assert_array_equal(per_class_accuracy(predictions, labels, 5), expected)


def test_a_class_without_samples_is_nan():
    accuracy = per_class_accuracy(torch.tensor([0, 2]), torch.tensor([0, 0]), 3)
    np.testing.assert_array_equal(accuracy, [0.5, math.nan, math.nan])


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_an_error(label):
    with pytest.raises(DataError, match="outside the 3 classes"):
        per_class_accuracy(torch.tensor([0, 0]), torch.tensor([0, label]), 3)


def test_shapes_must_agree():
    with pytest.raises(DataError, match="two vectors of one length"):
        per_class_accuracy(torch.tensor([0]), torch.tensor([0, 1]), 2)


def test_shots_are_means_over_classes_and_on_a_balanced_set_over_samples():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(6).repeat(10)
    predictions = torch.randint(6, (60,), generator=generator)
    shots = {"many": (0, 1), "medium": (2, 3, 4), "few": (5,)}
    result = shot_accuracy(per_class_accuracy(predictions, labels, 6), shots)
    right = predictions == labels
    for name, classes in shots.items():
        of_shot = torch.isin(labels, torch.tensor(classes))
        assert result[name] == pytest.approx(right[of_shot].double().mean().item(), abs=1e-15)
    assert result["avg"] == pytest.approx(right.double().mean().item(), abs=1e-15)


def test_an_empty_shot_is_nan_and_leaves_the_average_alone():
    result = shot_accuracy([0.5, 1.0], {"many": (0, 1), "medium": (), "few": ()})
    assert result["many"] == result["avg"] == 0.75
    assert math.isnan(result["medium"])
    assert math.isnan(result["few"])


def test_classes_without_test_samples_are_left_out_of_the_means():
    shots = {"many": np.array([0, 1]), "few": [2], "none": np.array([], dtype=int)}
    result = shot_accuracy([0.5, 1.0, math.nan], shots)
    assert result["many"] == result["avg"] == 0.75
    assert math.isnan(result["few"])
    assert math.isnan(result["none"])
