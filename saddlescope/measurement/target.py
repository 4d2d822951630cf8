"""A target of measurement: a network, a criterion, samples, and the words that identify them."""

from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.curvature import Criterion, Objective, SampleBatches, Samples
from saddlescope.errors import UsageError
from saddlescope.longtail import ImageSamples
from saddlescope.measurement.directions import UpdateRule
from saddlescope.runs import RunFolder
from saddlescope.training import epoch_loss, restore_run


@dataclass(frozen=True)
class Target:
    """One checkpoint on one split under one criterion.

    Attributes:
        model: in eval mode, on the device.
        criterion: mean loss.
        samples: what `class_spectra` reads.
        identity: the columns run, method, split, criterion, epoch, checkpoint and digest.
        rule: the radii for update directions; of a run, its recipe's.
    """

    model: nn.Module
    criterion: Criterion
    samples: Samples
    identity: dict[str, Any]
    rule: UpdateRule = field(default_factory=UpdateRule)

    def objective(self, indices: Tensor, batch_size: int = 256) -> Objective:
        """Return the mean loss over some of the samples, int64 indices of shape (n,)."""
        batches = SampleBatches(self.samples, indices, batch_size)
        return Objective(self.model, self.criterion, batches)


def run_target(
    folder: RunFolder,
    *,
    checkpoint: str = "last",
    split: str = "train",
    criterion: str = "ce",
    device: torch.device | str = "cpu",
    data_root: str | PathLike[str] | None = None,
) -> Target:
    """Load the target that a run folder's checkpoint is.

    Args:
        folder: of the run.
        checkpoint: "last", "best" or an epoch number.
        split: "train" or "test".
        criterion: "ce", or "training" for the loss the network was trained with.
        device: where to compute.
        data_root: folder of the data sets.

    Raises:
        DataError: no run, no such checkpoint, or data missing.
        UsageError: an unknown split or criterion.
    """
    if split not in ("train", "test"):
        raise UsageError(f"split {split!r}: expected train or test")
    if criterion not in ("ce", "training"):
        raise UsageError(f"criterion {criterion!r}: expected ce or training")
    run = restore_run(folder, checkpoint=checkpoint, device=device, data_root=data_root)
    if criterion == "training":
        if run.data.train.sample_weights is not None:
            raise UsageError(
                f"{folder.path}: its training loss has a weight a sample, which a spectrum does "
                "not know; take --criterion ce"
            )
        loss, epoch = run.recipe.loss, run.epoch or 0
        weighted = loss.weights_beta(epoch, run.recipe.training.epochs) is not None
        key = f"{loss.name}-drw" if weighted else loss.name
        used = epoch_loss(run.recipe, run.data, epoch)
    else:
        key, used = "ce", nn.CrossEntropyLoss()
    method = run.recipe.method
    return Target(
        model=run.model,
        criterion=used.to(device),
        samples=ImageSamples(getattr(run.data, split), run.data.groups),
        identity={
            "run": folder.name,
            "method": run.recipe.method_key,
            "split": split,
            "criterion": key,
            "epoch": run.epoch,
            "checkpoint": run.checkpoint,
            "digest": run.digest,
        },
        rule=UpdateRule(**asdict(method.options), group_reduction=method.group_reduction),
    )
