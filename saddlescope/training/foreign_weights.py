"""Checkpoints as people save them: the model's tensors among other things, and under other names.

A training script keeps epoch and optimiser beside the weights; DataParallel, torch.compile and
Lightning put a word in front of every name. What is taken off is only what lets every name fit:
nothing is guessed.
"""

import itertools
import logging
from collections.abc import Iterable, Mapping
from typing import Any

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


def say_what_was_taken_off(entry: str | None, prefixes: list[str], *, origin: str) -> None:
    """Log where the tensors were found and how their names were changed, if they were."""
    said = [] if entry in (None, "model") else [f"read the entry {entry!r}"]
    said += [f"took {prefix!r} ({PREFIXES[prefix]}) off the names" for prefix in prefixes]
    if said:
        log.info("%s: %s", origin, ", ".join(said))


def _unfit(found: Iterable[str], names: set[str]) -> int:
    """How many names only one side has."""
    return len(set(found) ^ names)


def _without(key: str, prefixes: Iterable[str]) -> str:
    for prefix in prefixes:
        # A part of a model can be compiled too: this one may stand anywhere.
        key = key.replace(prefix, "") if prefix == "_orig_mod." else key.removeprefix(prefix)
    return key
