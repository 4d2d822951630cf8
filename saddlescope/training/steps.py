"""The steps of an epoch: batch, augmentation, losses by group, and what the log adds up.

Several ranks share each batch: every rank takes its part of the samples, and the optimiser adds up
their gradients, so that the step is the whole batch's.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.longtail import Augmentation, LongTailData, send
from saddlescope.parallel import ALONE, Ranks
from saddlescope.sharpness import Radii, SharpnessAware, group_losses
from saddlescope.training.arithmetic import fast_bfloat16
from saddlescope.training.decoupling import class_balanced_order
from saddlescope.training.losses import epoch_loss
from saddlescope.training.norms import gradient_norms
from saddlescope.training.recipe import Recipe

log = logging.getLogger(__name__)

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Steps:
    """Takes the optimiser's steps, and remembers the losses of the current epoch.

    Args:
        recipe: of the run.
        data: on the device.
        model: on the device.
        optimizer: of its parameters.
        radii: of the method.
        ranks: who shares each batch.

    Attributes:
        sums: training losses this rank has seen in this epoch, of head and tail, shape (2,),
            float64.
        counts: samples behind them on all ranks, shape (2,), int64, on the host.
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
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        self.recipe, self.data, self.model = recipe, data, model
        self.optimizer, self.radii, self.ranks = optimizer, radii, ranks
        # On both sides: which groups a batch holds must not make a device wait, nor the host.
        self._is_tail = torch.isin(data.train.labels.cpu(), torch.tensor(data.groups["tail"]))
        self._tail_there = self._is_tail.to(data.train.device)
        self._channels_last = recipe.training.channels_last
        self._half = _HALF.get(recipe.training.precision)
        if self._half is torch.bfloat16 and data.train.device.type == "cpu" and not fast_bfloat16():
            log.warning(
                'precision = "bf16" is many times slower than "float32" here: torch has no fast '
                "bfloat16 convolutions for this processor (they need AVX-512)"
            )
        # What a gradient in float16 would lose for being small, a scaled loss keeps.
        fp16 = recipe.training.precision == "fp16"
        self._scaler = torch.amp.GradScaler(data.train.device.type) if fp16 else None
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Start an epoch: nothing counted, and random streams that depend on seed and epoch."""
        device = self.data.train.device
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.counts = torch.zeros(2, dtype=torch.int64)
        self._augmentation = Augmentation(self.seed(epoch, stream=1))
        # For layers that draw at random while training (dropout), one stream an epoch and rank.
        torch.manual_seed((self.seed(epoch, stream=2) + 7_919 * self.ranks.rank) % 2**63)
        self._criterion = epoch_loss(self.recipe, self.data, epoch, reduction="none")
        self._grouped = self.radii.grouped(epoch)
        self.optimizer.set_radii(self.radii.at(epoch))

    def order(self, epoch: int) -> Tensor:
        """Return the order in which an epoch visits the samples."""
        generator = torch.Generator().manual_seed(self.seed(epoch, stream=0))
        if self.recipe.decoupling is not None:
            return class_balanced_order(self.data.train.labels.cpu(), generator)
        return torch.randperm(len(self.data.train), generator=generator)

    def images(
        self, batches: Sequence[Tensor], *, before: Tensor | None = None
    ) -> Iterator[Tensor]:
        """This rank's images of these batches, augmented and normalised, one batch after the other.

        Args:
            batches: positions of the samples, on the host.
            before: positions that the epoch has visited already; None is none.
        """
        augmentation = self._augmentation if self.recipe.data.augment else None
        if before is not None:
            self._augmentation.before = before
        return self.data.train.batches(batches, augmentation=augmentation, mine=self._mine)

    def seed(self, epoch: int, *, stream: int) -> int:
        """Return the seed of one of the three random streams of an epoch."""
        return ((self.recipe.training.seed * 1_000_003 + epoch) * 3 + stream) % 2**63

    @property
    def mean_loss(self) -> float:
        """Return the mean over this rank's samples so far; reading it makes a device wait."""
        return float(self.sums.sum() * self.ranks.size / self.counts.sum().clamp(min=1))

    def take(
        self,
        indices: Tensor,
        images: Tensor,
        *,
        log_norms: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Take one step on these samples.

        Args:
            indices: of the whole batch, on the host.
            images: this rank's, from `images`.
            log_norms: called with the gradient norms at w, before the step.
        """
        tails = int(self._is_tail[indices].sum())
        self.counts += torch.tensor([len(indices) - tails, tails])
        if log_norms is not None:
            log_norms(self._norms(indices, self._prepared(images)))
        self._step(indices, images)

    def _step(self, indices: Tensor, images: Tensor) -> None:
        """Run the passes and the update; arguments as of `take`."""
        mine, share = indices[self._mine(len(indices))], self._share(len(indices))
        there, whole = send(mine, self.data.train.device), self._is_tail[indices]
        tail, images = self._tail_there[there], self._prepared(images)
        reduction = self.recipe.method.group_reduction
        logged: set[int] = set()

        def losses(part: slice) -> dict[str, Tensor]:
            # The forward at w is the one the log speaks of.
            log = None if part.start in logged else share
            logged.add(part.start)
            values = self._values(images[part], there[part], log=log)
            if share != 1.0:
                values = values * share
            if self._grouped:
                return group_losses(values, tail[part], group_reduction=reduction, whole=whole)
            return {
                "all": values.mean() if len(values) == len(whole) else values.sum() / len(whole)
            }

        parts = _parts(len(mine), self.recipe.training.accumulate)
        self.optimizer.step([partial(losses, part) for part in parts], scaler=self._scaler)
        if self._scaler is not None:
            self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return what an epoch's rest depends on beside weights and optimiser; all ranks alike."""
        return {
            "sums": self.ranks.total(self.sums.clone()),
            "counts": self.counts,
            "augmentation": self._augmentation.generator.get_state(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], *, epoch: int) -> None:
        """Go on within an epoch."""
        self.begin(epoch)
        if self.ranks.rank == 0:  # what was added up is one rank's from here on
            self.sums.copy_(state["sums"].reshape(self.sums.shape))
        self.counts.copy_(state["counts"].reshape(self.counts.shape))
        self._augmentation.generator.set_state(state["augmentation"].cpu())
        if self._scaler is not None and state.get("scaler"):
            self._scaler.load_state_dict(state["scaler"])

    def _mine(self, samples: int) -> slice:
        """This rank's part of a batch; all of it where there are fewer samples than ranks."""
        if samples < self.ranks.size:
            return slice(None)
        return _parts(samples, self.ranks.size)[self.ranks.rank]

    def _share(self, samples: int) -> float:
        """Of its part's losses, what this rank adds to the whole batch's."""
        return 1.0 / self.ranks.size if samples < self.ranks.size else 1.0

    def _prepared(self, images: Tensor) -> Tensor:
        """Images of `images` as the network takes them."""
        if self._channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def _values(self, images: Tensor, there: Tensor, *, log: float | None) -> Tensor:
        """Return one weighed loss a sample, with a graph.

        Args:
            images: prepared.
            there: positions of the samples, on the device.
            log: what the unweighed losses are added to the log with; None leaves them out.
        """
        train = self.data.train
        with self._autocast():
            logits = self.model(images)
        # Autocast gives half precision, in which a loss would lose its digits.
        logits = logits.float() if self._half else logits
        values: Tensor = self._criterion(logits, train.labels[there])
        if log is not None:
            self._tally(values.detach() * log, self._tail_there[there])
        return values if train.sample_weights is None else values * train.sample_weights[there]

    def _norms(self, indices: Tensor, images: Tensor) -> dict[str, Any]:
        train = self.data.train
        there = send(indices, train.device)
        return gradient_norms(
            self.model,
            self._criterion,
            images,
            train.labels[there],
            self._is_tail[indices],
            group_reduction=self.recipe.method.group_reduction,
            weights=None if train.sample_weights is None else train.sample_weights[there],
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._half is None:
            return nullcontext()
        return torch.autocast(self.sums.device.type, dtype=self._half)

    def _tally(self, values: Tensor, tail: Tensor) -> None:
        weights = tail.to(values.device, torch.float64)
        total, of_tail = values.double().sum(), torch.dot(values.double(), weights)
        self.sums += torch.stack((total - of_tail, of_tail))


def _parts(samples: int, count: int) -> list[slice]:
    """`count` consecutive parts of a batch, as equal as can be; of a smaller batch one a sample."""
    count = min(count, samples)
    each, more = divmod(samples, count)
    ends = [(part + 1) * each + min(part + 1, more) for part in range(count)]
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
