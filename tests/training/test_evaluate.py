"""Accuracies as columns, against counting by hand."""

import pytest
import torch
from torch import nn

from saddlescope.runs import METRIC_COLUMNS
from saddlescope.training import packaged_recipe
from saddlescope.training.evaluate import evaluate
from saddlescope.training.restore import load_section


def test_plain_and_mirrored_accuracies_by_hand():
    data = load_section(packaged_recipe("digits-lt").data)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model.train()
    row = evaluate(model, data, batch_size=100)
    assert model.training
    assert set(row) == {column for column in METRIC_COLUMNS if column.startswith("acc_")}
    with torch.no_grad():
        images = data.test.normalised()
        plain = model(images)
        both = (plain + model(images.flip(3))) / 2
    for ending, logits in (("", plain), ("_flip", both)):
        right = logits.argmax(1) == data.test.labels
        by_class = torch.stack([right[data.test.labels == c].double().mean() for c in range(10)])
        assert row[f"acc_avg{ending}"] == pytest.approx(float(by_class.mean()))
        few = [int(c) for c in data.groups["few"]]
        assert row[f"acc_few{ending}"] == pytest.approx(float(by_class[few].mean()))
    assert row["acc_avg"] != row["acc_avg_flip"]
    assert row["acc_per_class"] == pytest.approx(
        [float((plain.argmax(1) == c)[data.test.labels == c].double().mean()) for c in range(10)]
    )
