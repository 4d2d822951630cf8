"""Test accuracy by class and by shot."""

import torch
from torch import nn

from saddlescope.longtail import LongTailData, per_class_accuracy, shot_accuracy


def evaluate(model: nn.Module, data: LongTailData, *, batch_size: int = 1000) -> dict[str, object]:
    """Accuracies on the test split, in [0, 1], as metric columns; the mode is put back.

    `…_flip` are those of the mean of the logits of an image and of its mirror image, as the paper's
    code reports them.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            plain, flipped = [], []
            for part in torch.arange(len(data.test)).split(batch_size):
                images = data.test.normalised(part)
                logits = model(images)
                plain.append(logits.argmax(1))
                flipped.append((logits + model(images.flip(3))).argmax(1))
    finally:
        model.train(training)
    row: dict[str, object] = {}
    for ending, predictions in (("", plain), ("_flip", flipped)):
        per_class = per_class_accuracy(torch.cat(predictions), data.test.labels, data.num_classes)
        shots = shot_accuracy(per_class, data.shots)
        row |= {f"acc_{name}{ending}": float(value) for name, value in shots.items()}
        if not ending:
            row["acc_per_class"] = [float(value) for value in per_class]
    return row
