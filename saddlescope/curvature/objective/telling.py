"""What tells the samples of one data set from those of another."""

import zlib
from collections.abc import Iterable
from typing import Any

import torch

from saddlescope.curvature.objective.batched import BatchedSamples
from saddlescope.curvature.objective.counting import evenly
from saddlescope.curvature.objective.samples import SampleBatches, Samples, TensorSamples
from saddlescope.curvature.objective.sources import FROZEN, measured

_LOOKED_AT = 64
"""Samples whose inputs tell a data set that is read item by item."""


def samples_checksum(samples: Samples) -> str:
    """Return what tells the samples of two data sets apart, as hex.

    What lies in memory or in batches is read whole, of other data sets the targets and some inputs.
    Inputs that change from reading to reading are left out.
    """
    n = len(samples.targets)
    batches: Iterable[Any]
    if FROZEN in getattr(samples, "notes", ()):
        batches = ()
    elif isinstance(samples, BatchedSamples):
        batches = samples.source
    elif isinstance(samples, TensorSamples):
        batches = SampleBatches(samples, torch.arange(n), 256)
    else:
        batches = SampleBatches(samples, evenly(n, _LOOKED_AT), 1)  # they may differ in shape
    checksum = zlib.crc32(str(n).encode(), measured(samples.targets)[1])
    for batch in batches:
        checksum = zlib.crc32(str(measured(batch)).encode(), checksum)
    return f"{checksum:08x}"
