"""Make `SharpnessAware` a whole `torch.optim.Optimizer`.

State and parameter groups are the base optimiser's own: whoever writes to one writes to the other,
and schedulers, checkpoints, copies and hooks find what they look for.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from saddlescope.errors import UsageError
from saddlescope.runs import check_radii
from saddlescope.sharpness.ascent import Ascent


class Wrapper(Optimizer):
    """An optimiser that prepares gradients for another, its base.

    Args:
        base: an optimiser over all parameters.
        radii: of every group.
        ascent: how ε is found.

    Attributes:
        base: what moves the weights.
    """

    def __init__(self, base: Optimizer, radii: Mapping[Any, float], ascent: Ascent) -> None:
        self.base = base
        self._refuse_keys("rho", "adaptive", "radii", "ascent")
        super().__init__(base.param_groups, dict(base.defaults))
        self.set_radii(radii)
        self.ascent = ascent

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimiser's."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The base optimiser's."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def radii(self) -> dict[Any, float]:
        """The radii in force, by group; every `param_groups` entry has them, for checkpoints."""
        return dict(self.param_groups[0].get("radii", self._radii))

    def set_radii(self, radii: Mapping[Any, float]) -> None:
        """Replace the radii, as SSE-SAM does when its second stage begins.

        Raises:
            UsageError: a radius that is negative or not finite, or none at all.
        """
        if not radii:
            raise UsageError("radii is empty: name at least one group")
        check_radii(radii)
        self._radii = dict(radii)  # for when a checkpoint is loaded into the base itself
        for group in self.param_groups:
            group["radii"] = dict(radii)

    @property
    def ascent(self) -> Ascent:
        """How ε is found; every `param_groups` entry has it, for checkpoints."""
        return self._ascent

    @ascent.setter
    def ascent(self, ascent: Ascent) -> None:
        self._ascent = ascent
        for group in self.param_groups:
            group["ascent"] = _told(ascent)

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Any:
        """Call `hook(self, args, kwargs)` before the weights move, when `.grad` is final."""
        return self.base.register_step_pre_hook(lambda _, *arguments: hook(self, *arguments))

    def register_step_post_hook(self, hook: Callable[..., Any]) -> Any:
        """Call `hook(self, args, kwargs)` after the weights have moved, in any form of a step."""
        return self.base.register_step_post_hook(lambda _, *arguments: hook(self, *arguments))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with the radii in force.

        Raises:
            UsageError: the group names radii of its own.
        """
        if "radii" in param_group:
            raise UsageError(
                "a parameter group holds 'radii': a radius belongs to a group of samples; call "
                "set_radii"
            )
        if "ascent" in param_group:
            raise UsageError("a parameter group holds 'ascent', which all of them share")
        super().add_param_group(param_group)
        first = self.param_groups[0]
        self._name({name: first[name] for name in ("radii", "ascent") if name in first})

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, or the state of a plain base optimiser.

        Radii and ascent are the checkpoint's then, as the learning rate is; one that names none
        leaves those in force.

        Raises:
            UsageError: it names an ascent that there is not.
        """
        theirs = state_dict.get("base", state_dict)
        named = [group["ascent"] for group in theirs.get("param_groups", ()) if "ascent" in group]
        try:
            ascent = replace(self.ascent, **(named[0] if named else {}))
        except TypeError:
            raise UsageError(f"there is no ascent such as the checkpoint's, {named[0]}") from None
        radii = self.radii
        super().load_state_dict(theirs)
        self._name({"radii": radii})
        self.ascent = ascent
        if "base" in state_dict:  # a format of before 0.1.0, which names the radii beside it
            self.set_radii(state_dict["radii"])

    def _name(self, options: Mapping[str, Mapping[Any, Any]]) -> None:
        """Name options in groups that name none, such as those of a base's checkpoint."""
        for group in self.param_groups:
            for name, told in options.items():
                group.setdefault(name, dict(told))

    def __getstate__(self) -> dict[str, Any]:
        hooks = ("_optimizer_", "_warned", "step", "profile", "_zero_grad_profile_name", "_patched")
        return {k: v for k, v in self.__dict__.items() if not k.startswith(hooks)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Of a pickle or a copy, which has a base, and of torch's load_state_dict, which has none.
        state = dict(state)
        theirs: dict[str, Any] = {
            key: state.pop(key) for key in ("state", "param_groups") if key in state
        }
        super().__setstate__(state)
        if theirs:
            self.base.__setstate__(theirs)

    @property
    def _steps(self) -> int:
        """Steps taken, which LookSAM counts."""
        return int(self.param_groups[0].get("sharpness_steps", 0))

    def _count_step(self) -> None:
        if self.ascent.every > 1:
            steps = self._steps + 1
            for group in self.param_groups:
                group["sharpness_steps"] = steps

    def _all(self) -> list[Tensor]:
        """Every parameter once: a tied one may be listed twice, which torch only warns of."""
        every = {id(p): p for group in self.param_groups for p in group["params"]}
        return list(every.values())

    def _refuse_group_options(self) -> None:
        """Refuse what other optimisers read from a parameter group, and this one does not.

        Raises:
            UsageError: a group has `rho`, `adaptive`, or radii of its own.
        """
        self._refuse_keys("rho", "adaptive")
        radii = self.radii
        if any(group.get("radii", radii) != radii for group in self.param_groups):
            raise UsageError(
                "parameter groups hold different radii: a radius belongs to a group of samples; "
                "call set_radii, which writes the same into all of them"
            )
        told = _told(self.ascent)
        if any(group.get("ascent", told) != told for group in self.param_groups):
            raise UsageError(
                "a parameter group holds another 'ascent' than the optimiser's: assign to .ascent "
                "of the optimiser, which writes it into all of them"
            )

    def _refuse_keys(self, *names: str) -> None:
        for group in self.param_groups:
            for name in names:
                if name in group and name not in self.base.defaults:  # Adadelta's own is called rho
                    raise UsageError(
                        f"a parameter group holds {name!r}, which is not read from there: a radius "
                        "belongs to a group of samples and not of parameters, and the ascent to "
                        "all of them; hand it to SharpnessAware itself, or call set_radii, and "
                        "remove it from the group"
                    )

    def _trainable(self) -> list[Tensor]:
        """Those that can move.

        Raises:
            UsageError: there are none, or parts of them that nothing tells from whole ones.
        """
        found = [p for p in self._all() if p.requires_grad]
        if any(getattr(p, "_fsdp_flattened", False) for p in found):
            raise UsageError(
                "parameters of FullyShardedDataParallel, which look whole on each process, so that "
                "lengths would be those of one process's part: use "
                "torch.distributed.fsdp.fully_shard, which is told apart"
            )
        if not found:
            raise UsageError("every parameter of this optimiser is frozen: nothing can move")
        return found


def _told(ascent: Ascent) -> dict[str, Any]:
    """What a checkpoint holds; who follows which gradient is a matter of the processes at hand."""
    return {name: value for name, value in asdict(ascent).items() if name != "ranks"}
