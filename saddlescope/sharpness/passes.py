"""The passes of one step: the gradients of every group at w, and the update's at w + ε.

One forward pass of each micro-batch at w serves every group, groups with ρ = 0 share one backward
pass, and each perturbed group costs one backward pass at w and one forward and one backward pass at
w + ε for each micro-batch. No graph outlives its micro-batch.

A compiled network is run forward anew for each backward pass: compiled code may write over what it
has saved, and a second pass over it then returns a wrong gradient. torch refuses that, but neither
where `donated_buffer` was switched off after the code was compiled, nor where the code comes from
inductor's cache, whose key does not hold that setting (torch 2.13). So is a network with autograd
Functions of its own: fused kernels write gradients over what they have saved, too.
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.errors import UsageError
from saddlescope.sharpness.buffers import KeptBuffers
from saddlescope.sharpness.exchange import Exchange
from saddlescope.sharpness.gradients import (
    Gradients,
    Untouched,
    add,
    clear,
    is_spent_by_backward,
    others,
    put,
    take,
)
from saddlescope.sharpness.losses import Losses, backward, by_group, loss_of, only
from saddlescope.sharpness.norms import is_sharded


@dataclass
class Found:
    """The outcome of the passes at w.

    Attributes:
        ascents: gradients of each perturbed group.
        update: the gradient of the others together, or None.
        answer: what the caller's function returned, detached, added up over micro-batches.
        present: of each micro-batch, the perturbed groups it has.
        own: whether the function called `backward()` itself.
    """

    ascents: dict[Hashable, Gradients] = field(default_factory=dict)
    update: Gradients | None = None
    answer: Any = None
    present: list[list[Hashable]] = field(default_factory=list)
    own: bool = False

    def add(self, gradients: Gradients) -> None:
        """Add to the update."""
        self.update = add(self.update, gradients)


@dataclass(frozen=True)
class Passes:
    """Runs the caller's functions and collects gradients.

    Attributes:
        parameters: those that can move.
        calls: one for each micro-batch.
        radii: of every group.
        exchange: who shares the batch.
        scaler: a GradScaler, or None.
        model: whose buffers only the first forward pass at w may change; None for none.
    """

    parameters: Sequence[Tensor]
    calls: Sequence[Losses]
    radii: Mapping[Hashable, float]
    exchange: Exchange
    scaler: Any = None
    model: nn.Module | None = None

    def at_w(self) -> Found:
        """Return the gradients at w.

        Raises:
            UsageError: what was returned cannot be differentiated, or cannot be meant.
        """
        found = Found()
        perturbed = any(self.radii.values())
        several = len(self.radii) > 1
        for index, call in enumerate(self.calls):
            with self._pass(found, index, ascent=perturbed):
                result, own = self._run(call)
                self.exchange.refuse_within_forward(own=own)
                if index > 0 and own != found.own:
                    raise UsageError(
                        "some functions of the micro-batches call backward() themselves and others "
                        "return a loss: let all of them do the same"
                    )
                found.own = own
                if own:
                    name = only(self.radii)
                    kept = found.ascents.get(name, found.update)
                    self._keep(found, name, add(kept, self._taken()))
                    found.answer = _sum_up(found.answer, result)
                    continue
                with torch.enable_grad():  # a mapping may compute when it is asked
                    losses = dict(by_group(result, self.radii))
                names = [name for name in losses if self.radii[name] > 0.0]
                plain = [name for name in losses if self.radii[name] == 0.0]
                turns = [[name] for name in names] + ([plain] if plain else [])
                at = {name: loss_of(losses, name) for name in losses}
                anew = len(turns) > 1 and is_spent_by_backward(at.values())
                untouched = Untouched(
                    others((at[name] for name in names), self.parameters, self.exchange.model)
                )
                for turn, members in enumerate(turns):
                    if members is plain:
                        untouched.put_back()
                    if anew and turn > 0:
                        at = self._again(call, members)
                    retain = not anew and turn < len(turns) - 1
                    backward([at[name] for name in members], scaler=self.scaler, retain=retain)
                    if several and members is plain:
                        found.update = add(found.update, self._arrived())
                    elif several:
                        (name,) = members
                        found.ascents[name] = add(found.ascents.get(name), self._arrived())
                if not plain:
                    untouched.put_back()
                found.present.append(names)
                found.answer = _sum_up(
                    found.answer, losses if isinstance(result, Mapping) else result
                )
        if not several and not found.own:
            # One group: its micro-batches add up in `.grad` itself, where DDP looks for them.
            self._keep(found, only(self.radii), take(self.parameters))
        return found

    def at_ascent(self, name: Hashable, found: Found, *, alone: bool = False) -> Gradients:
        """Return the gradient of a group's loss at the present weights.

        Args:
            name: of the group.
            found: at w.
            alone: whether to leave out the update so far, which is added otherwise.
        """
        total = None if alone else found.update
        clear(self.parameters)
        # A hook on accumulated gradients would act on those of the former passes once more.
        apart = found.own or any(p._post_accumulate_grad_hooks for p in self.parameters)
        if total is not None and not apart:
            put(self.parameters, total)
        for index, call in enumerate(self.calls):
            if not found.own and name not in found.present[index]:
                continue
            with self._pass(found, index, ascent=False):
                with torch.enable_grad():
                    result = call()
                    if not found.own:
                        losses = result if isinstance(result, Mapping) else {name: result}
                        loss = loss_of(losses, name)
                if found.own:
                    total = add(total, self._taken())
                else:
                    backward([loss], scaler=self.scaler)
        if found.own:
            assert total is not None
            return total
        return add(total, take(self.parameters)) if apart else take(self.parameters)

    def _pass(self, found: Found, index: int, *, ascent: bool) -> AbstractContextManager[None]:
        """Around the passes of a micro-batch."""
        last = index == len(self.calls) - 1
        own = found.own and len(self.calls) > 1
        return self.exchange.passes(len(self.radii), own=own, ascent=ascent, last=last)

    def _arrived(self) -> Gradients:
        """Gradients of one group out of `.grad`, which must be there before the next one's come."""
        gradients = take(self.parameters)
        if all(g is None for g in gradients) and any(map(is_sharded, self.parameters)):
            raise UsageError(
                "a backward pass left no gradient: with several groups fully_shard must not have "
                "its gradient sync switched off (set_requires_gradient_sync)"
            )
        return gradients

    def _run(self, call: Losses) -> tuple[Any, bool]:
        """What the function returns, and whether it filled `.grad` itself."""
        before = [(p.grad, None if p.grad is None else p.grad._version) for p in self.parameters]
        with torch.enable_grad():
            result = call()
        own = any(
            p.grad is not None and (p.grad is not former or p.grad._version != version)
            for p, (former, version) in zip(self.parameters, before, strict=True)
        )
        return result, own

    def _again(self, call: Losses, names: Sequence[Hashable]) -> dict[Hashable, Tensor]:
        """Losses of these groups from another forward pass at w, which leaves no traces."""
        buffers = KeptBuffers(self.model)
        with torch.enable_grad():
            result = call()
            losses = {name: loss_of(result, name) for name in names}
        buffers.put_back()
        return losses

    def _keep(self, found: Found, name: Hashable, gradients: Gradients) -> None:
        if self.radii[name] > 0.0:
            found.ascents[name] = gradients
        else:
            found.update = gradients

    def _taken(self) -> Gradients:
        """Gradients out of `.grad`; copies where DDP may write into them in the next pass."""
        gradients = take(self.parameters)
        if len(self.calls) == 1:
            return gradients
        return [None if g is None else g.clone() for g in gradients]


def _sum_up(total: Any, answer: Any) -> Any:
    """Add the answers of micro-batches up, by group."""
    if isinstance(answer, Tensor):
        answer = answer.detach()
    elif isinstance(answer, Mapping):
        answer = {k: v.detach() if isinstance(v, Tensor) else v for k, v in answer.items()}
    if total is None or answer is None:
        return answer if total is None else total
    if isinstance(answer, Mapping):
        return {
            name: total[name] + answer[name] if name in total and name in answer
            else total.get(name, answer.get(name))
            for name in {**total, **answer}
        }  # fmt: skip
    return total + answer
