"""Moving a network's flat parameter vector w about, and putting it back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from saddlescope.curvature import ParameterVector


@contextmanager
def kept(vector: ParameterVector) -> Iterator[Tensor]:
    """Hand out w, shape (n,), and restore it bit for bit, also after an exception."""
    before = vector.flatten([p.detach() for p in vector.tensors]).clone()
    try:
        yield before
    finally:
        move_to(vector, before)


def move_to(vector: ParameterVector, w: Tensor) -> None:
    """Set the parameters to w, shape (n,)."""
    with torch.no_grad():
        for parameter, part in zip(vector.tensors, vector.split(w), strict=True):
            parameter.copy_(part)
