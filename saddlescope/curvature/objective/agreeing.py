"""Ranks that share the samples of a matrix hold one network, one criterion and one data set.

What they add up would otherwise be the matrix of no network, and look like any other. Everything
is compared once, when an objective is built, in one collective that all ranks take.
"""

import functools
import zlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from saddlescope.curvature.objective.batched import BatchedSamples
from saddlescope.curvature.objective.samples import SampleBatches, SharedSamples
from saddlescope.curvature.objective.sources import measured
from saddlescope.curvature.objective.state import fingerprint
from saddlescope.curvature.objective.telling import samples_checksum
from saddlescope.errors import UsageError
from saddlescope.parallel import Ranks


def refuse_ranks_apart(
    ranks: Ranks, model: nn.Module, criterion: Any, batches: Any, names: Any
) -> None:
    """Refuse where ranks differ in what must be the same on all of them; a collective.

    Args:
        ranks: who shares the samples.
        model: on this rank.
        criterion: on this rank.
        batches: where they are of `SharedSamples`, these are the same on all ranks.
        names: of the trainable parameters and the options of the objective.

    Raises:
        UsageError: on every rank; names what differs.
    """
    if ranks.size == 1:
        return
    held = {
        "weights": [(name, _told(p)) for name, p in model.named_parameters()],
        "buffers": [(name, _told(b)) for name, b in model.named_buffers()],
        "parameters chosen, weight decay or reduction": names,
        "criterion": criterion_told(criterion),
        "data": _data(batches),
    }
    same = ranks.same(*(zlib.crc32(repr(words).encode()) for words in held.values()))
    apart = [what for what, alike in zip(held, same, strict=True) if not alike]
    if apart:
        raise UsageError(
            f"ranks that share samples differ in their {' and '.join(apart)}, so that their sum "
            "would be the matrix of no network: load one checkpoint, build one criterion and read "
            "one data set, in one order, on every rank (seeds, files, BatchNorm statistics of DDP)"
        )


def criterion_told(criterion: Any) -> Any:
    """Return what tells two criteria apart: names, tensors and plain numbers, as text."""
    if isinstance(criterion, Tensor):
        return _told(criterion)
    if isinstance(criterion, bool | int | float | str | None):
        return repr(criterion)
    if isinstance(criterion, functools.partial):
        return [
            criterion_told(part) for part in (criterion.func, criterion.args, criterion.keywords)
        ]
    if isinstance(criterion, list | tuple):
        return [criterion_told(part) for part in criterion]
    if isinstance(criterion, Mapping):
        return [(str(key), criterion_told(part)) for key, part in criterion.items()]
    kind = getattr(criterion, "__qualname__", type(criterion).__qualname__)
    if not isinstance(criterion, nn.Module):
        inside = getattr(criterion, "function", None)  # of a BatchLoss
        return kind if inside is None else [kind, criterion_told(inside)]
    plain = [
        (name, key, criterion_told(value))
        for name, module in criterion.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor | bool | int | float | str) and key != "training"
    ]
    tensors = [*criterion.named_parameters(), *criterion.named_buffers()]
    return [kind, plain, [(name, _told(tensor)) for name, tensor in tensors]]


def _told(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} {int(fingerprint(tensor))}"


def _data(batches: Any) -> Any:
    """What tells the data and the samples of a row; None where each rank has its own."""
    if not (isinstance(batches, SampleBatches) and isinstance(batches.samples, SharedSamples)):
        return None
    kept, inner = vars(batches.samples), batches.samples.samples
    if "_checksum" not in kept:  # once for all rows
        fixed = isinstance(inner, BatchedSamples) or getattr(inner, "fixed", False)
        # Inputs that are read anew may be augmented, by each rank from its own random state.
        kept["_checksum"] = samples_checksum(inner) if fixed else measured(inner.targets)
    return kept["_checksum"], measured(batches.indices)
