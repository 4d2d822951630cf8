"""One Hessian to find both ends of: a network, a loss and samples, the same for every tool."""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Problem:
    """One Hessian.

    Attributes:
        name: of the case.
        model: in eval mode.
        criterion: mean loss.
        inputs: of all samples.
        targets: int64, shape (n,).
        source: where network and samples come from, in words.
        batch_size: of the batches every tool is given, of equal sizes.
    """

    name: str
    model: nn.Module
    criterion: nn.Module
    inputs: Tensor
    targets: Tensor
    source: str
    batch_size: int | None = None

    @cached_property
    def size(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return next(self.model.parameters()).device

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """(inputs, targets) of every batch."""
        step = self.batch_size or len(self.targets)
        return list(zip(self.inputs.split(step), self.targets.split(step), strict=True))

    def fresh(self) -> "Problem":
        """The same with a copy of the model, on which a tool may leave what it likes."""
        return self._with(copy.deepcopy(self.model), self.inputs)

    def double(self) -> "Problem":
        """The same in float64."""
        inputs = self.inputs.double() if self.inputs.is_floating_point() else self.inputs
        return self._with(copy.deepcopy(self.model).double(), inputs)

    def take(self, samples: int) -> "Problem":
        """The first samples of it."""
        return Problem(
            self.name, self.model, self.criterion, self.inputs[:samples], self.targets[:samples],
            self.source, self.batch_size,
        )  # fmt: skip

    def described(self) -> dict[str, object]:
        """What a reader must know of it."""
        return {
            "samples": len(self.targets),
            "parameters": self.size,
            "batch_size": self.batch_size or len(self.targets),
            "source": self.source,
        }

    def _with(self, model: nn.Module, inputs: Tensor) -> "Problem":
        return Problem(
            self.name, model, self.criterion, inputs, self.targets, self.source, self.batch_size
        )
