"""How the processes that share a batch add up their gradients.

Three ways, and who does it:

- a network in DistributedDataParallel, one group: DDP itself, in its own `backward()`.
- a network in DistributedDataParallel, several groups: one message for all ascents and one for the
  update, averaged over DDP's process group. DDP allows one backward pass for a forward, and a rank
  whose part of the batch lacks a group would leave the others waiting. So also micro-batches whose
  functions call `backward()` themselves: they may clear `.grad`, in which DDP would add them up.
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
from saddlescope.sharpness.gradients import Gradients, put


class Exchange:
    """Sums over processes, or nothing where one is alone.

    Args:
        model: what the caller's passes run, if known.
        total: adds up a flat vector over processes, in place.
        ascent: whether each process follows its own gradient up, among others.

    Attributes:
        model: the same.

    Raises:
        UsageError: both a DDP model and `total`; a local ascent of neither.
    """

    def __init__(
        self, model: nn.Module | None, total: Callable[[Tensor], object] | None, ascent: Ascent
    ) -> None:
        self.model = model
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

    def in_messages(self, groups: int, *, own: bool) -> bool:
        """Tell whether gradients are added up here, in messages, not during a backward pass.

        Args:
            groups: number of radii.
            own: whether there are several functions, each of which calls `backward()` itself.
        """
        return self._total is not None or (self._ddp is not None and (groups > 1 or own))

    def passes(
        self, groups: int, *, own: bool, ascent: bool, last: bool
    ) -> AbstractContextManager[None]:
        """Around one forward and its backward passes.

        Args:
            groups: number of radii.
            own: see `in_messages`.
            ascent: whether its gradients are those of the ascent.
            last: of the micro-batches.

        Raises:
            UsageError: messages would leave out what DDP was asked to do.
        """
        if self._ddp is None:
            several = groups > 1 and ascent and self._total is None
            return _no_ddp() if several and dist.is_initialized() else nullcontext()
        messages = self.in_messages(groups, own=own)
        if messages:
            _refuse_options(self._ddp)
        alone = not last or messages or (ascent and self._local_ascent)
        context: AbstractContextManager[None] = self._ddp.no_sync() if alone else nullcontext()
        return context

    def refuse_within_forward(self, *, own: bool) -> None:
        """Refuse gradients of a pass inside DDP's own forward that nobody adds up.

        Lightning's manual optimisation is such a place: DDP is switched off there until
        `manual_backward` switches it on.

        Args:
            own: whether the caller's function called `backward()` itself.

        Raises:
            UsageError: there are other processes, and they would not see these gradients.
        """
        within = getattr(DistributedDataParallel, "_active_ddp_module", None)
        if within is None or self._total is not None or (own and within.require_backward_grad_sync):
            return
        if dist.get_world_size(within.process_group) > 1:
            raise UsageError(
                "a step inside the forward pass of DistributedDataParallel, such as Lightning's "
                "manual optimisation: nobody adds these gradients up over processes; let the "
                "function call self.manual_backward(loss)"
            )

    def refuse_local_ascent(self) -> None:
        """Refuse a local ascent along what DDP has added up already.

        Raises:
            UsageError: it is asked for.
        """
        if self._local_ascent and self._ddp is not None:
            raise UsageError(
                "a local ascent under DistributedDataParallel needs step(closure): your own "
                "backward() has added the gradients up over processes"
            )

    def add_up_ascents(
        self,
        ascents: dict[Hashable, Gradients],
        parameters: Sequence[Tensor],
        groups: int,
        *,
        own: bool = False,
    ) -> dict[Hashable, Gradients]:
        """Return the whole batch's gradients of each group; zero where no process has any."""
        if not self.in_messages(groups, own=own) or self._local_ascent or not ascents:
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
        self, update: Gradients, parameters: Sequence[Tensor], groups: int, *, own: bool = False
    ) -> Gradients:
        """Return the whole batch's gradient; None where no process has one: nothing moves there.

        What DDP would have added up besides, parameters of another optimiser, is so in `.grad`.
        """
        if not self.in_messages(groups, own=own):
            return update
        mine = {id(parameter) for parameter in parameters}
        others: list[Tensor] = []
        if (ddp := self._ddp) is not None:
            ignored, inside = ddp.parameters_to_ignore, ddp.module.named_parameters()
            sent = [p for name, p in inside if p.requires_grad and name not in ignored]
            others = [p for p in sent if id(p) not in mine]
            # Rank 0's buffers go out before the next forward pass, as after DDP's own backward.
            ddp.require_forward_param_sync = True
        gradients = [*update, *(p.grad for p in others)]
        whole = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip([*parameters, *others], gradients, strict=True)
        ]
        there = torch.ones(len(whole), device=whole[0].device)
        complete = all(g is not None for g in gradients)
        if not complete:
            there.copy_(torch.tensor([float(g is not None) for g in gradients]))
        self._add_up([*whole, there])
        found: Gradients = list(whole)
        if not complete:  # only a process that lacks a gradient itself has to look, and wait
            found = [g if some else None for g, some in zip(whole, there.tolist(), strict=True)]
        put(others, found[len(update) :])
        return found[: len(update)]

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


def _refuse_options(ddp: DistributedDataParallel) -> None:
    """Refuse what DDP was asked to do with gradients that it does not see.

    Raises:
        UsageError: a communication hook, a static graph, or `join`.
    """
    asked = {
        "a communication hook": bool(ddp._comm_hooks),
        "static_graph=True": ddp.static_graph,
        "join()": ddp._join_config.enable,
    }
    for what, there in asked.items():
        if there:
            raise UsageError(
                f"{what} of DistributedDataParallel goes with one radius and with functions that "
                "return their loss: otherwise its gradients are added up in messages of our own"
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
