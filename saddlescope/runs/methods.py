"""The methods: one record each. A new one is one more record here.

The trainer takes its radii from the record, recipes their words, tables and reports the printed
name, benchmarks the cost of the paper's released code. Only a colour of its own is chosen
elsewhere, in `saddlescope.palette`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Stage = Mapping[str, str | None]
"""Group of samples to the word of `RadiusOptions` that is its radius; None is radius 0."""


@dataclass(frozen=True)
class RadiusOptions:
    """The numbers that methods take their radii from; the defaults are the paper's for CIFAR-LT.

    Attributes:
        rho: ρ of all samples together (SAM).
        rho_head: ρ of the head.
        rho_tail: ρ of the tail.
        gamma: share of the epochs after which a second stage begins.
    """

    rho: float = 0.05
    rho_head: float = 0.05
    rho_tail: float = 0.10
    gamma: float = 0.70


@dataclass(frozen=True)
class Method:
    """A training method.

    Attributes:
        label: name that the paper prints.
        stages: one or two; the second begins at the share `gamma` of the epochs.
        released: forward and backward passes of a step of the paper's released code in the last
            stage; None of a method that it does not have.
    """

    label: str
    stages: tuple[Stage, ...]
    released: tuple[int, int] | None = None


_BOTH: Final[Stage] = {"head": "rho_head", "tail": "rho_tail"}
_TAIL: Final[Stage] = {"head": None, "tail": "rho_tail"}

METHODS: Final[Mapping[str, Method]] = {
    "sgd": Method("SGD", ({"all": None},), released=(1, 1)),
    "sam": Method("SAM", ({"all": "rho"},), released=(2, 2)),
    "imbsam": Method("ImbSAM", (_TAIL,), released=(2, 3)),
    "sam-ext": Method("SAM (ext.)", (_BOTH,), released=(4, 4)),
    "sse-sam": Method("SSE-SAM", (_BOTH, _TAIL), released=(4, 4)),
}
"""Method by the key that recipes and tables have, in the paper's order."""

ONE_STAGE: Final = tuple(key for key, method in METHODS.items() if len(method.stages) == 1)
"""Keys of the methods that can be a stage of another one."""


def in_two_stages(first: str, second: str) -> str | None:
    """Return the key of the method that is `first` and then `second`; None where none is."""
    stages = METHODS[first].stages + METHODS[second].stages
    return next((key for key, method in METHODS.items() if method.stages == stages), None)
