"""Step sizes by epoch, in closed form, so that a resumed run needs no scheduler state."""

import math

from saddlescope.errors import UsageError


def step_size(eta: float, schedule: str, epoch: int, epochs: int) -> float:
    """η of an epoch, counted from 0.

    "cosine" reaches 0 after the last epoch. "cosine-released" is stepped before each epoch, as
    the paper's code does, so that the last epoch has step size 0. "constant" stays.
    """
    if schedule == "constant":
        return eta
    position = epoch + 1 if schedule == "cosine-released" else epoch
    return 0.5 * eta * (1.0 + math.cos(math.pi * position / epochs))


def refuse_standing_still(schedule: str, epochs: int) -> None:
    """Refuse a schedule whose every step size is 0: the only epoch of "cosine-released" is one.

    Raises:
        UsageError: nothing would be trained.
    """
    if all(step_size(1.0, schedule, epoch, epochs) <= 0 for epoch in range(epochs)):
        raise UsageError(
            f"schedule {schedule!r} over {epochs} epoch has step size 0 throughout: train longer "
            "or choose schedule 'cosine'"
        )
