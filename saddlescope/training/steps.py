"""The steps of an epoch: batch, augmentation, losses by group, and what the log adds up."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.longtail import LongTailData, pad_crop_flip
from saddlescope.sharpness import Radii, SharpnessAware, group_losses
from saddlescope.training.losses import epoch_loss
from saddlescope.training.norms import gradient_norms
from saddlescope.training.recipe import Recipe


class Steps:
    """Takes the optimiser's steps, and remembers the losses of the current epoch.

    Args:
        recipe: of the run.
        data: on the device.
        model: on the device.
        optimizer: of its parameters.
        radii: of the method.

    Attributes:
        sums: training losses seen in this epoch, of head and tail, shape (2,), float64.
        counts: samples behind them, shape (2,), int64, on the host.
    """

    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        recipe: Recipe,
        data: LongTailData,
        model: nn.Module,
        optimizer: SharpnessAware,
        radii: Radii,
    ) -> None:
        self.recipe, self.data, self.model = recipe, data, model
        self.optimizer, self.radii = optimizer, radii
        # Kept on the host as well: which group a batch holds must not make a device wait.
        self._is_tail = torch.isin(data.train.labels.cpu(), torch.tensor(data.groups["tail"]))
        self._augmentation = torch.Generator()
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Start an epoch: nothing counted, and random streams that depend on seed and epoch."""
        device = self.data.train.images.device
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.counts = torch.zeros(2, dtype=torch.int64)
        self._augmentation.manual_seed(self.seed(epoch, stream=1))
        # For layers that draw at random while training (dropout), one stream an epoch.
        torch.manual_seed(self.seed(epoch, stream=2))
        self._criterion = epoch_loss(self.recipe, self.data, epoch, reduction="none")
        self.optimizer.set_radii(self.radii.at(epoch))

    def order(self, epoch: int) -> Tensor:
        """The order in which an epoch visits the samples."""
        generator = torch.Generator().manual_seed(self.seed(epoch, stream=0))
        return torch.randperm(len(self.data.train), generator=generator)

    def seed(self, epoch: int, *, stream: int) -> int:
        """The seed of one of the three random streams of an epoch."""
        return ((self.recipe.training.seed * 1_000_003 + epoch) * 3 + stream) % 2**63

    @property
    def mean_loss(self) -> float:
        """Of the samples seen in this epoch; reading it makes a device wait."""
        return float(self.sums.sum() / self.counts.sum().clamp(min=1))

    def take(
        self, indices: Tensor, *, log_norms: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Take one step on these samples.

        Args:
            indices: of the batch, on the host.
            log_norms: called with the gradient norms at w, before the step.
        """
        data, tail = self.data.train, self._is_tail[indices]
        images, labels = data.images[indices], data.labels[indices]
        if self.recipe.data.augment:
            images = pad_crop_flip(images, self._augmentation)
        inputs, first = data.normalise(images), True
        reduction = self.recipe.method.group_reduction
        if log_norms is not None:
            log_norms(
                gradient_norms(
                    self.model, self._criterion, inputs, labels, tail, group_reduction=reduction
                )
            )

        def losses() -> dict[str, Tensor]:
            nonlocal first
            values = self._criterion(self.model(inputs), labels)
            if first:  # the forward at w is the one the log speaks of
                self._tally(values.detach(), tail)
                first = False
            if not self.radii.grouped:
                return {"all": values.mean()}
            return group_losses(values, tail, group_reduction=reduction)

        self.optimizer.step(losses)

    def state_dict(self) -> dict[str, Tensor]:
        """What an epoch's rest depends on, besides weights and optimiser."""
        return {
            "sums": self.sums,
            "counts": self.counts,
            "augmentation": self._augmentation.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tensor], *, epoch: int) -> None:
        """Go on within an epoch."""
        self.begin(epoch)
        self.sums, self.counts = state["sums"].to(self.sums.device), state["counts"].cpu()
        self._augmentation.set_state(state["augmentation"].cpu())

    def _tally(self, values: Tensor, tail: Tensor) -> None:
        weights = tail.to(values.device, torch.float64)
        total, of_tail = values.double().sum(), torch.dot(values.double(), weights)
        self.sums += torch.stack((total - of_tail, of_tail))
        self.counts += torch.tensor([len(tail) - int(tail.sum()), int(tail.sum())])
