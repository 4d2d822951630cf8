"""Several processes, one objective: its samples lie on the ranks of a torch.distributed group.

L(w) = Σ_r Σ_{b on r} share_b·ℓ_b(w), the shares being those of the whole, so the loss, the gradient
and every product are plain sums over ranks. The data say who shares them (`SharedBatches` and
`samples.SharedSamples` carry their `Ranks`); `Objective` and `BatchProducts` add up, and whatever
is built on them sees the whole. Each rank then runs the same iteration on the same vectors.

What a rank decides for itself must not depend on its own rounding or its own memory, or one would
wait for a product that no other takes: the scalars of each Lanczos step, the turn of a restart and
the decision to stop are rank 0's, and the room for the basis is the least of all ranks'.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from saddlescope.errors import UsageError


class Ranks:
    """Name the processes that share an objective's samples.

    Every method is a collective: all ranks call it, in the same order, and all get the same bits.
    Of one process alone each is the identity.

    Args:
        group: a process group, such as `torch.distributed.group.WORLD`; None for one process alone.

    Attributes:
        rank: of this process in the group.
        size: number of processes.

    Raises:
        UsageError: this process is not one of the group's.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        if self.rank < 0:
            raise UsageError("this process is not in the group that shares the samples")

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks of tensors of one shape and dtype, in place."""
        if self.group is not None:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def totals(self, *numbers: float) -> list[float]:
        """Return the sums over ranks of some numbers."""
        return self._reduced(numbers, dist.ReduceOp.SUM) if self.group else list(numbers)

    def least(self, number: float) -> float:
        """Return the smallest over ranks."""
        return self._reduced([number], dist.ReduceOp.MIN)[0] if self.group else number

    def all(self, answer: bool) -> bool:
        """Return whether every rank says yes."""
        return bool(self.least(float(answer)))

    def same(self, *numbers: int) -> list[bool]:
        """Return of each number, below 2⁵³ in size, whether all ranks have the same."""
        if self.group is None:
            return [True] * len(numbers)
        pairs = [float(signed) for number in numbers for signed in (number, -number)]
        least = self._reduced(pairs, dist.ReduceOp.MIN)
        return [low == -high for low, high in zip(least[::2], least[1::2], strict=True)]

    def any(self, answer: bool) -> bool:
        """Return whether some rank says yes."""
        return not self.all(not answer)

    def from_first(self, tensor: Tensor) -> Tensor:
        """Return rank 0's tensor, in place."""
        if self.group is not None:
            dist.broadcast(tensor, group=self.group, group_src=0)
        return tensor

    def array_from_first(self, array: np.ndarray) -> np.ndarray:
        """Return rank 0's array, float64."""
        if self.group is None:
            return array
        # LAPACK on two machines may differ in the last bit, and in an eigenvector's sign.
        tensor = torch.tensor(array, dtype=torch.float64, device=self._device)
        return self.from_first(tensor).cpu().numpy()

    def first_says(self, answer: bool) -> bool:
        """Return rank 0's answer."""
        if self.group is None:
            return answer
        return bool(self.from_first(torch.tensor(float(answer), device=self._device)))

    def slice(self, indices: Tensor) -> Tensor:
        """Return this rank's part of a vector that all ranks hold; may be empty."""
        return torch.tensor_split(indices, self.size)[self.rank]

    def _reduced(self, numbers: Iterable[float], operation: Any) -> list[float]:
        # In float64 whatever the objective's dtype: counts are exact in it.
        tensor = torch.tensor([*numbers], dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor, op=operation, group=self.group)
        found: list[float] = tensor.tolist()
        return found

    @property
    def _device(self) -> torch.device:
        """Where this group's backend wants its tensors."""
        on_gpu = dist.get_backend(self.group) == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


ALONE = Ranks()
"""One process that shares nothing."""


def ranks_of(shared: object) -> Ranks:
    """Return who shares these batches or samples; one process alone where none is named."""
    ranks = getattr(shared, "ranks", ALONE)
    return ranks if isinstance(ranks, Ranks) else ALONE
