"""Test accuracy by class and by shot; training losses of head and tail at fixed weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from saddlescope.longtail import Images, LongTailData, per_class_accuracy, shot_accuracy
from saddlescope.parallel import ALONE, Ranks


def evaluate(
    model: nn.Module, data: LongTailData, *, batch_size: int = 1000, ranks: Ranks = ALONE
) -> dict[str, object]:
    """Accuracies on the test split, in [0, 1], as metric columns; the mode is put back.

    `…_flip` are those of the mean of the logits of an image and of its mirror image, as the paper's
    code reports them. Ranks share the batches, and all get the same numbers.
    """
    predictions = torch.zeros(2, len(data.test), dtype=torch.int64, device=data.test.device)
    with _in_eval_mode(model):
        for part, images in _batches(data.test, batch_size, ranks):
            logits = model(images)
            predictions[0, part] = logits.argmax(1)
            predictions[1, part] = (logits + model(images.flip(3))).argmax(1)
    ranks.total(predictions)
    row: dict[str, object] = {}
    for ending, predicted in zip(("", "_flip"), predictions, strict=True):
        per_class = per_class_accuracy(predicted, data.test.labels, data.num_classes)
        shots = shot_accuracy(per_class, data.shots)
        row |= {f"acc_{name}{ending}": float(value) for name, value in shots.items()}
        if not ending:
            row["acc_per_class"] = [float(value) for value in per_class]
    return row


def training_losses(
    model: nn.Module,
    criterion: nn.Module,
    data: LongTailData,
    *,
    batch_size: int = 1000,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Measure what Eq. 8 and the small-loss assumption compare: losses of head and tail.

    Sums and means over all training images at fixed weights, without augmentation, in eval mode;
    the mode is put back.

    Args:
        model: the network.
        criterion: one loss a sample.
        data: on the model's device.
        batch_size: images at a time.
        ranks: share the batches; all get the same numbers.

    Returns:
        The columns of losses.jsonl but the epoch.
    """
    is_tail = torch.isin(
        data.train.labels, torch.tensor(data.groups["tail"], device=data.train.device)
    )
    sums = torch.zeros(2, dtype=torch.float64, device=data.train.device)
    with _in_eval_mode(model):
        for part, images in _batches(data.train, batch_size, ranks):
            values = criterion(model(images), data.train.labels[part]).double()
            of_tail = values[is_tail[part]].sum()
            sums += torch.stack((values.sum() - of_tail, of_tail))
    head, tail = ranks.total(sums).tolist()
    tails = int(is_tail.sum())
    return {
        "loss": (head + tail) / len(data.train),
        "loss_head": head / (len(data.train) - tails),
        "loss_tail": tail / tails,
        "loss_head_sum": head,
        "loss_tail_sum": tail,
    }


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _batches(images: Images, size: int, ranks: Ranks) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions and images of this rank's batches."""
    parts = torch.arange(len(images)).split(size)[ranks.rank :: ranks.size]
    return zip(parts, images.batches(parts), strict=True)
