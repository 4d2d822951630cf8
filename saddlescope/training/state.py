"""The state of a run in a checkpoint, held to what such a state is before training goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from saddlescope.errors import DataError


@contextmanager
def state_of_a_run(origin: str) -> Iterator[None]:
    """Say of an entry that is missing, or is not what it should be, where it came from.

    Raises:
        DataError: instead of what torch and Python raise on such an entry.
    """
    try:
        yield
    except KeyError as error:
        raise DataError(f"{origin}: not the state of a run: no entry {error}") from None
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{origin}: not the state of this run: {reason[:200]}") from None


def whole_number(value: Any, *, most: int) -> int:
    """Return a count from a checkpoint.

    Raises:
        ValueError: not a whole number from 0 to `most`.
    """
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:40]} is not a whole number from 0 to {most}")
    return value


def refuse_other_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Refuse momenta that are not those of the parameters: torch would take or broadcast them.

    Raises:
        ValueError: one has another shape or kind.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in optimizer.state[parameter].items():
                if (
                    name == "momentum_buffer"
                    and value is not None
                    and (value.shape != parameter.shape or value.dtype != parameter.dtype)
                ):
                    raise ValueError(
                        f"a momentum is {value.dtype} of shape {tuple(value.shape)}, its "
                        f"parameter {parameter.dtype} of {tuple(parameter.shape)}"
                    )
