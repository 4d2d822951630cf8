"""Test accuracy by class and by shot."""

import torch
from torch import nn

from saddlescope.longtail import LongTailData, per_class_accuracy, shot_accuracy


def evaluate(model: nn.Module, data: LongTailData, *, batch_size: int = 1000) -> dict[str, object]:
    """Accuracies on the test split, in [0, 1], as metric columns; the mode is put back."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            predictions = torch.cat(
                [
                    model(data.test.normalised(part)).argmax(1)
                    for part in torch.arange(len(data.test)).split(batch_size)
                ]
            )
    finally:
        model.train(training)
    per_class = per_class_accuracy(predictions, data.test.labels, data.num_classes)
    shots = shot_accuracy(per_class, data.shots)
    return {f"acc_{name}": float(value) for name, value in shots.items()} | {
        "acc_per_class": [float(value) for value in per_class]
    }
