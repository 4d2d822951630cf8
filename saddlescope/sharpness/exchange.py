"""How the processes that share a batch add up their gradients.

Three ways, and who does it:

- a network in DistributedDataParallel, one group: DDP itself, in its own `backward()`.
- a network in DistributedDataParallel, several groups: one message for all ascents and one for the
  update, averaged over DDP's process group. DDP allows one backward pass for a forward, and a rank
  whose part of the batch lacks a group would leave the others waiting.
- `total`: the same two messages, summed by the caller's function.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from saddlescope.errors import UsageError
from saddlescope.sharpness.ascent import Ascent
from saddlescope.sharpness.gradients import Gradients


class Exchange:
    """Sums over processes, or nothing where one is alone.

    Args:
        model: what the caller's passes run, if known.
        total: adds up a flat vector over processes, in place.
        ascent: whether each process follows its own gradient up, among others.

    Raises:
        UsageError: both a DDP model and `total`; a local ascent of neither.
    """

    def __init__(
        self, model: nn.Module | None, total: Callable[[Tensor], object] | None, ascent: Ascent
    ) -> None:
        inner = getattr(model, "_orig_mod", model)  # of a compiled one
        self._ddp = inner if isinstance(inner, DistributedDataParallel) else None
        self._total = total
        self._local_ascent = ascent.ranks == "local"
        if self._ddp is not None and total is not None:
            raise UsageError("model is in DistributedDataParallel, which adds up: leave total out")
        if self._local_ascent and self._ddp is None and total is None:
            raise UsageError(
                "a local ascent needs total=..., or model=... in DistributedDataParallel"
            )

    def in_messages(self, groups: int) -> bool:
        """Tell whether gradients are added up here, in messages, not during a backward pass."""
        return self._total is not None or (self._ddp is not None and groups > 1)

    def passes(self, groups: int, *, ascent: bool, last: bool) -> AbstractContextManager[None]:
        """Around one forward and its backward passes.

        Args:
            groups: number of radii.
            ascent: whether its gradients are those of the ascent.
            last: of the micro-batches.
        """
        if self._ddp is None:
            several = groups > 1 and ascent and self._total is None
            return _no_ddp() if several and dist.is_initialized() else nullcontext()
        alone = not last or self.in_messages(groups) or (ascent and self._local_ascent)
        context: AbstractContextManager[None] = self._ddp.no_sync() if alone else nullcontext()
        return context

    def add_up_ascents(
        self, ascents: dict[Hashable, Gradients], parameters: Sequence[Tensor], groups: int
    ) -> dict[Hashable, Gradients]:
        """Return the whole batch's gradients of each group; zero where no process has any."""
        if not self.in_messages(groups) or self._local_ascent or not ascents:
            return ascents
        whole = {
            name: [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(parameters, gradients, strict=True)
            ]
            for name, gradients in ascents.items()
        }
        self._add_up([gradient for gradients in whole.values() for gradient in gradients])
        return {name: list(gradients) for name, gradients in whole.items()}

    def add_up_update(
        self, update: Gradients, parameters: Sequence[Tensor], groups: int
    ) -> Gradients:
        """Return the whole batch's gradient; None where no process has one: nothing moves there."""
        if not self.in_messages(groups):
            return update
        whole = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, update, strict=True)
        ]
        there = torch.ones(len(update), device=whole[0].device)
        complete = all(g is not None for g in update)
        if not complete:
            there.copy_(torch.tensor([float(g is not None) for g in update]))
        self._add_up([*whole, there])
        if complete:
            return list(whole)
        # Only a process that lacks a gradient itself has to look, and wait.
        somewhere = there.tolist()
        return [g if found else None for g, found in zip(whole, somewhere, strict=True)]

    def _add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum, or average as DDP does, over processes, in place, in one message."""
        if any(tensor.layout != torch.strided for tensor in tensors):
            raise UsageError("sparse gradients are not added up over processes: use dense ones")
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        if self._total is not None:
            self._total(flat)
        elif self._ddp is not None:
            dist.all_reduce(flat, group=self._ddp.process_group)
            flat /= dist.get_world_size(self._ddp.process_group)
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(
            list(tensors),
            [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)],
        )


@contextmanager
def _no_ddp() -> Iterator[None]:
    """Refuse a DDP network within: of several backward passes it would add up the first alone."""

    def refuse(module: nn.Module, _: object) -> None:
        if isinstance(module, DistributedDataParallel):
            raise UsageError(
                "several groups and a network in DistributedDataParallel: hand it to "
                "SharpnessAware as model=..., so that one forward can serve their backward passes"
            )

    handle = nn.modules.module.register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()
