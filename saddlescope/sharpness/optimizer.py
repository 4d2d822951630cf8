"""One optimiser for the whole SAM family (Foret et al. 2021; Zhou et al. 2023; Eq. 13-14).

The rule: for groups g with losses L_g and radii ρ_g, the base optimiser receives

    Σ_g ∇L_g(w + ε_g),   ε_g = ρ_g·∇L_g(w)/‖∇L_g(w)‖   (global L2 norm, no weight decay).

`passes` takes the fewest passes the rule allows: forward/backward SGD 1/1, SAM 2/2, ImbSAM 2/3, SAM
(ext.) 3/4; of a compiled network, or of fused kernels, as many forward as backward. `ascent` has
the relatives of the rule, `exchange` the processes that share a batch.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from saddlescope.errors import UsageError
from saddlescope.runs import RadiusOptions
from saddlescope.sharpness.ascent import Ascent, Memory
from saddlescope.sharpness.exchange import Exchange
from saddlescope.sharpness.gradients import (
    Gradients,
    any_nonzero,
    clear,
    mark_seen,
    put,
    take,
    unseen,
)
from saddlescope.sharpness.journey import Journey
from saddlescope.sharpness.losses import Losses, as_calls, only
from saddlescope.sharpness.norms import all_finite, clip_norm
from saddlescope.sharpness.options import StepOptions
from saddlescope.sharpness.passes import Passes
from saddlescope.sharpness.scaling import usable
from saddlescope.sharpness.wrapper import Wrapper


class SharpnessAware(Wrapper):
    """Sharpness-aware minimisation over groups of samples, around any base optimiser.

    Args:
        params: parameters or parameter groups, as for any optimiser.
        base: makes the base optimiser: a class such as `torch.optim.SGD`.
        radii: group name to ρ_g >= 0. A group that is missing here is an error at the step.
        rho: short for `radii={"all": rho}`; 0.05 where neither is given.
        adaptive: short for `ascent=Ascent(adaptive=True)`, which is ASAM.
        ascent: how ε is found, for ASAM, Friendly-SAM, LookSAM and local ascents.
        step: what a step does besides: clipping, buffers, processes that share a batch.
        **options: handed to `base` as they are (lr, momentum, weight_decay, maximize, …).

    Raises:
        UsageError: a negative or non-finite radius, a base that is no optimiser class or evaluates
            closures itself.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> sam = SharpnessAware([w], torch.optim.SGD, rho=0.5, lr=0.1)
        >>> _ = sam.step(lambda: 0.5 * w.square().sum())
        >>> w.data
        tensor([2.6700, 3.5600])
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        *,
        radii: Mapping[Any, float] | None = None,
        rho: float | None = None,
        adaptive: bool = False,
        ascent: Ascent | None = None,
        step: StepOptions | None = None,
        **options: Any,
    ) -> None:
        step = step or StepOptions()
        if radii is not None and rho is not None:
            raise UsageError("radii and rho say the same: give one of them")
        if not callable(base):
            raise UsageError(f"base is {type(base).__name__}: expected an optimiser's class")
        inner = base(params, **options)
        if isinstance(inner, torch.optim.LBFGS):
            raise UsageError("LBFGS evaluates the loss where it likes: it cannot be the base")
        if radii is None:
            radii = {"all": RadiusOptions.rho if rho is None else rho}
        ascent = ascent or Ascent()
        super().__init__(inner, radii, replace(ascent, adaptive=adaptive or ascent.adaptive))
        self.clip = step.clip
        self._model = step.model if step.bn_statistics == "clean" else None
        self._exchange = Exchange(step.model, step.total, self.ascent)
        self._away: Journey | None = None
        mark_seen(self._all())  # what `.grad` holds now is of an earlier stage

    @torch.no_grad()
    def step(self, closure: Losses | Iterable[Losses] | None = None, *, scaler: Any = None) -> Any:
        """Take one step.

        Args:
            closure: runs one forward over the *whole* batch (BatchNorm couples the groups) and
                returns the loss of each group as a scalar with a graph, or one loss where there is
                one radius; a group without samples in the batch is left out. It may also be an
                ordinary closure that calls `backward()` itself. It is called again at w + ε. A list
                has one function for each micro-batch, whose losses add up to the batch's. None ends
                a `first_step`.
            scaler: a `torch.amp.GradScaler`. Losses are scaled here; a closure that calls
                `backward()` scales by itself. A gradient that is not finite, at w or at w + ε,
                skips the step. Call `scaler.update()` afterwards.

        Returns:
            What `closure` returned at w, detached; of micro-batches the sum.

        Raises:
            UsageError: what was returned cannot be differentiated or has no radius; `.grad` already
                holds gradients that this step could not honour; nothing is trainable.
        """
        if self._away is not None:
            if closure is None:
                return self.second_step(scaler=scaler)
            self.restore()
            raise UsageError("step after first_step: call second_step, or restore to give it up")
        if closure is None:
            return self._step_without_losses()
        scaler = usable(scaler, self, self.ascent)
        self._refuse_group_options()
        self._refuse_unknown_gradients()
        calls = as_calls(closure)
        parameters = self._trainable()
        clear(self._all())  # nothing moves by a gradient of another step
        try:
            answer, update, memory = self._passes(calls, parameters, scaler)
        except BaseException:
            clear(self._all())
            raise
        put(parameters, update)
        self._descend(memory, scaler)
        return answer

    @torch.no_grad()
    def first_step(self, zero_grad: bool = True) -> None:  # noqa: ARG002 - as in other people's code
        """Go to w + ε along the gradient in `.grad`, from one `backward()` or several.

        `.grad` is empty afterwards: call `backward()` on the loss there, then `second_step`.

        Args:
            zero_grad: taken as davda54/sam's; `.grad` is cleared either way.

        Raises:
            UsageError: no gradient; several radii; a former step that never came to its end.
        """
        if self._away is not None:
            self.restore()
            raise UsageError(
                "first_step twice: the second step never came. A GradScaler that skips a step "
                "leaves it out, so call second_step(scaler=scaler); micro-batches all come "
                "before first_step"
            )
        if self.ascent.every > 1:
            raise UsageError("LookSAM leaves passes out, so it needs step(closure)")
        self._refuse_group_options()
        self._exchange.refuse_local_ascent()
        name = only(self.radii)
        parameters = self._trainable()
        new = {id(gradient) for gradient in unseen(parameters)}
        if not new:
            raise UsageError("first_step needs the gradient at w: call backward() before it")
        gradients = [p.grad if id(p.grad) in new else None for p in parameters]
        clear(self._all())
        gradients = self._exchange.add_up_ascents({name: gradients}, parameters, 1)[name]
        memory = Memory(parameters, self.state, self.ascent)
        uphill = self._uphill(memory.uphill(name, gradients), parameters)
        try:
            self._away = Journey(parameters, self._model)
            self._away.memory = memory
            self._away.go(uphill, self.radii[name], adaptive=self.ascent.adaptive, guard=True)
        except BaseException:
            self.restore()
            raise

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, *, scaler: Any = None) -> None:
        """Come back to w and let the base optimiser step with the gradient in `.grad`.

        Args:
            zero_grad: clear `.grad` afterwards.
            scaler: a `torch.amp.GradScaler` whose `scale` both losses went through; it may skip the
                step. Call `scaler.update()` afterwards.

        Raises:
            UsageError: no `first_step` before; no gradient at w + ε.
        """
        if self._away is None:
            raise UsageError("second_step without first_step")
        away, parameters = self._away, self._away.parameters
        self.restore()
        scaler = usable(scaler, self, self.ascent)
        update = take(parameters)
        if all(gradient is None for gradient in update):
            raise UsageError("second_step needs the gradient at w + ε: call backward() before it")
        put(parameters, self._exchange.add_up_update(update, parameters, 1))
        self._descend(away.memory, scaler, away.finite)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Come back to w from `first_step` without a step; nothing where it is w already."""
        if self._away is not None:
            self._away.come_back()
            self._away = None

    def _passes(
        self, calls: list[Losses], parameters: list[Tensor], scaler: Any
    ) -> tuple[Any, Gradients, Memory]:
        """What the caller returned at w, the base optimiser's gradient, and what to remember."""
        radii, exchange = self.radii, self._exchange
        memory = Memory(parameters, self.state, self.ascent)
        passes = Passes(parameters, calls, radii, exchange, scaler, self._model)
        found = passes.at_w()
        nothing: Gradients = [None] * len(parameters)
        names = list(found.ascents)
        groups, own = len(radii), found.own and len(calls) > 1
        messages = exchange.in_messages(groups, own=own)
        if messages:
            if self.ascent.every > 1:
                raise UsageError(
                    "LookSAM over processes needs DistributedDataParallel, one radius, and "
                    "micro-batches whose functions return the loss"
                )
            # Another process may have samples of the others.
            names = [name for name, rho in radii.items() if rho > 0.0]
        ascents = exchange.add_up_ascents(
            {name: found.ascents.pop(name, nothing) for name in names}, parameters, groups, own=own
        )
        for name in [name for name in names if memory.skips(name, self._steps)]:
            found.add(memory.reused(name, ascents.pop(name)))
        if scaler is not None and not all_finite(ascents.values()):
            # The scaler will find that too, and skip the step: there is no way up from here.
            for gradients in ascents.values():
                found.add(gradients)
            ascents = {}
        if ascents:
            try:
                self._away = Journey(parameters, self._model)
                for name, gradients in ascents.items():
                    uphill = self._uphill(memory.uphill(name, gradients), parameters)
                    self._away.go(uphill, radii[name], adaptive=self.ascent.adaptive)
                    if self.ascent.every > 1:
                        at_w = [None if g is None else g.clone() for g in gradients]
                        # DDP may write the next pass's into the very memory of these.
                        alone = passes.at_ascent(name, found, alone=True)
                        memory.keep_orthogonal(name, at_w, alone)
                        found.add(alone)
                    else:
                        found.update = passes.at_ascent(name, found)
                    self._away.come_back()
            finally:
                self.restore()
        update = exchange.add_up_update(found.update or nothing, parameters, groups, own=own)
        if not messages and all(gradient is None for gradient in update):
            raise UsageError(
                "the loss depends on none of this optimiser's parameters: was it made on another "
                "copy of the network, or is gradient sync switched off?"
            )
        return found.answer, update, memory

    def _refuse_unknown_gradients(self) -> None:
        """Refuse gradients in `.grad` that this step could not honour."""
        if (unknown := unseen(self._all())) and any_nonzero(unknown):
            raise UsageError(
                "the parameters hold gradients of a backward() before this step, which computes "
                "its own: hand micro-batches over as a list of functions, use first_step and "
                "second_step, or call zero_grad() first"
            )

    def _uphill(self, direction: Gradients, parameters: list[Tensor]) -> Gradients:
        """A direction with the signs that let a loss grow, or fall where it is maximised."""
        if not any(group.get("maximize") for group in self.param_groups):
            return direction
        falls = {id(p) for g in self.param_groups if g.get("maximize") for p in g["params"]}
        return [
            -g if g is not None and id(p) in falls else g
            for p, g in zip(parameters, direction, strict=True)
        ]

    def _descend(
        self, memory: Memory | None, scaler: Any = None, finite: Tensor | None = None
    ) -> None:
        """Let the base optimiser use `.grad`."""
        gradients = [p.grad for p in self._all() if p.grad is not None]
        if scaler is not None:
            if finite is not None and gradients:  # the scaler looks for what is not finite
                gradients[0].mul_(torch.where(finite, 1.0, float("nan")))
            scaler.unscale_(self.base)
        if self.clip is not None and gradients:
            clip_norm(gradients, self.clip)
        if scaler is None:
            self.base.step()
        else:
            scaler.step(self.base)
        torch.clear_autocast_cache()  # casts of the old weights
        if memory is not None:
            memory.commit()
        self._count_step()
        self._opt_called = True  # what learning-rate schedulers look for
        mark_seen(self._all())

    def _step_without_losses(self) -> None:
        """The base's step on `.grad`, where that is what the rule says.

        It is where no radius is above 0, and where every gradient is 0, with which
        torch.distributed.checkpoint makes an optimiser create its state.
        """
        gradients = [p.grad for p in self._all()]
        there = [gradient for gradient in gradients if gradient is not None]
        if not there:
            raise UsageError("step() without a function and without gradients: nothing to descend")
        if any(self.radii.values()) and any_nonzero(there):
            raise UsageError(
                "step() without a function: the gradient at w + ε needs another pass. Hand over a "
                "function that computes the loss, or use first_step and second_step"
            )
        memory = Memory(self._all(), self.state, self.ascent)
        if self.ascent.remembers:
            for name in self.radii:
                memory.uphill(name, gradients)
                memory.keep_orthogonal(name, gradients, gradients)
        self._descend(memory)
