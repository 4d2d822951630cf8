"""saddlescope: is this network at a saddle, for which classes, how sure are we?

The names below are loaded on first use, so that `saddlescope --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saddlescope._version import __version__

if TYPE_CHECKING:
    from saddlescope.callbacks import CurvatureLog
    from saddlescope.curvature import (
        BatchLoss,
        Ends,
        Estimate,
        GaussNewtonOperator,
        HessianOperator,
        MatrixOperator,
        WeingartenOperator,
        class_spectra,
        extreme_eigenvalues,
        spectral_density,
        top_eigenpairs,
    )
    from saddlescope.sharpness import SharpnessAware
    from saddlescope.stages import progress

__all__ = [
    "BatchLoss",
    "CurvatureLog",
    "Ends",
    "Estimate",
    "GaussNewtonOperator",
    "HessianOperator",
    "MatrixOperator",
    "SharpnessAware",
    "WeingartenOperator",
    "__version__",
    "class_spectra",
    "extreme_eigenvalues",
    "progress",
    "spectral_density",
    "top_eigenpairs",
]

_ELSEWHERE = {"CurvatureLog": "callbacks", "SharpnessAware": "sharpness", "progress": "stages"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'saddlescope' has no attribute {name!r}")
    room = _ELSEWHERE.get(name, "curvature")
    return getattr(import_module(f"saddlescope.{room}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
