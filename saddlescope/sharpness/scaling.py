"""A `torch.amp.GradScaler` in a step, or the reason why it cannot be."""

from typing import Any

from torch.optim import Optimizer

from saddlescope.errors import UsageError
from saddlescope.sharpness.ascent import Ascent


def usable(scaler: Any, optimizer: Optimizer, ascent: Ascent) -> Any:
    """Return the scaler, or None where there is none or it is switched off.

    Args:
        scaler: a GradScaler or None.
        optimizer: that will step.
        ascent: how it finds ε.

    Raises:
        UsageError: a step with this ascent could not honour a scaler, or the scaler has unscaled
            gradients of this optimiser already.
    """
    if scaler is None or not scaler.is_enabled():
        return None
    if ascent.remembers or ascent.ranks == "local":
        raise UsageError("a GradScaler goes with neither a local ascent, Friendly-SAM nor LookSAM")
    # The scaler books by optimiser. Whether that was at w or at w + ε it does not say.
    known = getattr(scaler, "_per_optimizer_states", {})
    if id(optimizer) in known and known[id(optimizer)]["found_inf_per_device"]:
        raise UsageError(
            "scaler.unscale_ was called on this optimizer, and a step unscales by itself: leave it "
            "out, and clip by StepOptions(clip=...)"
        )
    return scaler
