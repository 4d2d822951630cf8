"""Checkpoints as people save them: the model's tensors among other things, and under other names.

A training script keeps epoch and optimiser beside the weights; DataParallel, torch.compile and
Lightning put a word in front of every name. What is taken off is only what lets every name fit:
nothing is guessed.
"""

import itertools
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from saddlescope.errors import DataError
from saddlescope.training.foreign_files import Unread

log = logging.getLogger("saddlescope.training")

ENTRIES = ("model", "state_dict", "model_state_dict", "net")
"""Under which a checkpoint holds the model's tensors, the first that is a mapping."""

PREFIXES = {
    "module.": "DataParallel or DistributedDataParallel",
    "_orig_mod.": "torch.compile",
    "model.": "Lightning, or another wrapper",
}
"""What wrappers put before the names of a model's tensors, and which."""

_DEPTH = 3
"""Prefixes upon each other: a compiled model in DistributedDataParallel in a Lightning module."""


def entry_of(content: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the model's tensors in a checkpoint, and the entry they are under; None: the whole."""
    for key in ENTRIES:
        if isinstance(content.get(key), Mapping):
            return key, dict(content[key])
    return None, dict(content)


def fitted(found: Mapping[str, Any], wanted: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors under the names that the model has, and the prefixes that were taken off.

    Tensors whose names lack a prefix that others have stay as they are. Where no way of taking
    prefixes off makes all names fit, the one that leaves the fewest over is returned: what is
    wrong then can be said in the model's own names.

    Args:
        found: of a checkpoint.
        wanted: the names that the model has.
    """
    names = set(wanted)
    best, least = dict(found), _unfit(found, names)
    taken: list[str] = []
    for depth in range(1, _DEPTH + 1):
        for prefixes in itertools.permutations(PREFIXES, depth):
            if least == 0:
                return best, taken
            if not any(prefixes[0] in key for key in found):
                continue
            stripped = {_without(key, prefixes): value for key, value in found.items()}
            unfit = _unfit(stripped, names)
            if len(stripped) == len(found) and unfit < least:
                best, taken, least = stripped, list(prefixes), unfit
    return best, taken


def averages(content: Mapping[str, Any]) -> str:
    """Name the entries of a checkpoint that hold averaged weights (EMA), in words; "" for none."""
    found = [repr(key) for key in content if "ema" in str(key).split("_")]
    return ", ".join(found)


def chosen_entry(
    content: Mapping[str, Any], entry: str | None, *, origin: str
) -> tuple[str | None, dict[str, Any], list[str]]:
    """Return the entry that is asked for, its tensors, and what to say of the choice.

    Raises:
        DataError: the checkpoint has no such entry, and no name begins with it.
    """
    where, found = entry_of(content)
    if entry is None:
        return where, found, []
    if isinstance(content.get(entry), Mapping):
        return entry, dict(content[entry]), []
    if entry in content and not isinstance(content[entry], Tensor):
        value = content[entry]
        kind = value if isinstance(value, Unread) else type(value).__name__
        raise DataError(f"{origin}: the entry {entry!r} holds no state dict: {kind}")
    front = entry.removesuffix(".") + "."
    part = {key.removeprefix(front): v for key, v in found.items() if str(key).startswith(front)}
    if not part:
        raise DataError(
            f"{origin}: no entry {entry!r}, and no name that begins with {front!r}; it holds "
            f"{', '.join(map(str, list(content)[:8]))}"
        )
    return where, part, [f"took the names that begin with {front!r}"]


def completed(
    found: dict[str, Any], wanted: Mapping[str, Tensor], *, origin: str
) -> tuple[dict[str, Any], list[str]]:
    """Add tied weights, which are stored once; leave out what a wrapper keeps beside the model.

    Args:
        found: under the names of the model, or of a part of what is stored.
        wanted: the model's own tensors.
        origin: the checkpoint, for the error.

    Returns:
        The tensors, and what was done.

    Raises:
        DataError: the model's names stand under several first parts.
    """
    said: list[str] = []

    def stored(front: str, name: str) -> bool:
        return front + name in found or _twin(name, found, wanted, front) is not None

    if not all(stored("", name) for name in wanted):
        # All parts before a name of one of the model's tensors, a tied one by any of its names.
        first = next(iter(wanted.values()))
        names = [f".{name}" for name in wanted if wanted[name].data_ptr() == first.data_ptr()]
        fronts = {key.removesuffix(n) + "." for n in names for key in found if key.endswith(n)}
        whole = sorted(front for front in fronts if all(stored(front, name) for name in wanted))
        if len(whole) > 1:
            raise DataError(
                f"{origin}: the model's weights stand under each of "
                f"{', '.join(map(repr, whole))}: name one as the entry (--entry)"
            )
        if whole:
            front = whole[0]
            left = [key for key in found if not key.startswith(front)]
            said.append(f"took {front!r} off the names")
            if left:
                said.append(f"left out {len(left)} more (first: {left[0]})")
            found = {k.removeprefix(front): v for k, v in found.items() if k.startswith(front)}
    if "n_averaged" in found and "n_averaged" not in wanted:
        found = {key: value for key, value in found.items() if key != "n_averaged"}
        said.append("weights averaged by AveragedModel")
    for name in wanted:
        if name not in found and (twin := _twin(name, found, wanted)) is not None:
            found = found | {name: found[twin]}
            said.append(f"{name} is tied to {twin}")
    return found, said


def _twin(
    name: str, found: Mapping[str, Any], wanted: Mapping[str, Tensor], front: str = ""
) -> str | None:
    """Another name of the same tensor of the model, under which it is stored."""
    own = wanted[name]
    for other, tensor in wanted.items():
        same = tensor.data_ptr() == own.data_ptr() != 0 and tensor.shape == own.shape
        if same and front + other in found:
            return front + other
    return None


def say_what_was_taken_off(
    entry: str | None, prefixes: list[str], *, origin: str, said: list[str]
) -> None:
    """Log where the tensors were found and how their names were changed, if they were."""
    words = [] if entry in (None, "model") else [f"read the entry {entry!r}"]
    words += [f"took {prefix!r} ({PREFIXES[prefix]}) off the names" for prefix in prefixes]
    if words := words + said:
        log.info("%s: %s", origin, ", ".join(words))


def _unfit(found: Iterable[str], names: set[str]) -> int:
    """How many names only one side has."""
    return len(set(found) ^ names)


def _without(key: str, prefixes: Iterable[str]) -> str:
    for prefix in prefixes:
        # A part of a model can be compiled too: this one may stand anywhere.
        key = key.replace(prefix, "") if prefix == "_orig_mod." else key.removeprefix(prefix)
    return key
