"""Files of weights as other programs write them: found in a folder, read in parts, or refused.

`torch.load(weights_only=True)` refuses a whole checkpoint for one object in it that is no tensor:
the options of a training script (argparse's Namespace) or a Lightning module's hyper-parameters.
Here such objects can be replaced by something that does nothing, so that nothing of theirs is
imported or called, and the tensors beside them are read.
"""

import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from saddlescope.errors import DataError
from saddlescope.runs import read_json
from saddlescope.training.sealing import refuse_hostile

NAMES: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Of the weights in a folder of Hugging Face, the first that is there."""

_LARGEST_INDEX: Final = 1 << 26
"""Bytes: one of half a million tensors has 64 MiB."""

_OTHERS: Final = {
    b"GGUF": "a GGUF file, of quantised weights",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run git lfs pull",
    b"<": "a page of HTML or XML, perhaps of a download that failed",
    b"{": "a JSON file, which holds no tensors",
}
"""What other files begin with, and what they are."""


class Unread:
    """Stand for an object that was not loaded, because loading it would run code."""

    name = ""

    def __init__(self, *_arguments: Any, **_options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __str__(self) -> str:
        return f"{type(self).name} is an object, which would run code on loading"


def weights_file(path: Path) -> Path:
    """Return the file of weights in a folder; a file as it is.

    Raises:
        DataError: the folder has none.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in NAMES if (path / name).is_file()), None)
    if found is None:
        inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:6]) or "nothing"
        raise DataError(
            f"{path}: a folder without weights: expected one of {', '.join(NAMES)}; it holds "
            f"{inside}"
        )
    return found


def read_shards(index: Path, read: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """Read tensors that an index says are divided among several files beside it.

    Args:
        index: "….index.json", with a `weight_map` from names to files.
        read: of one file.

    Raises:
        DataError: it is no such index, or a file or a tensor is missing.
    """
    try:
        places = read_json(index, limit=_LARGEST_INDEX)["weight_map"]
        files = sorted(set(places.values()))
        outside = [name for name in files if Path(name).name != name]
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{index}: not an index of files with weights: expected a 'weight_map' from names to "
            f"files ({type(error).__name__})"
        ) from None
    if outside:
        raise DataError(f"{index}: refused: {outside[0]!r} is not a file beside the index")
    if nested := [name for name in files if name.endswith(".index.json")]:
        raise DataError(f"{index}: refused: its part {nested[0]} is an index itself")
    found: dict[str, Any] = {}
    for name in files:
        if not (index.parent / name).is_file():
            raise DataError(f"{index}: its part {name} is missing")
        found |= read(index.parent / name)
    lost = [key for key in places if key not in found]
    if lost:
        raise DataError(f"{index}: {lost[0]} is not in {places[lost[0]]}, where the index has it")
    return {key: found[key] for key in places}


def is_safetensors(path: Path) -> bool:
    """Return whether a file is one of safetensors, whatever it is called."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as handle:
        head = handle.read(9)
    # The length of a JSON header, and its first character.
    return (
        len(head) == 9
        and head[8:] == b"{"
        and struct.unpack("<Q", head[:8])[0] <= path.stat().st_size
    )


def refuse_other_files(path: Path) -> None:
    """Refuse what is no file of tensors, and say what it is.

    Raises:
        DataError: a file of another kind.
    """
    if not path.is_file():
        raise DataError(f"{path}: neither a file nor a folder")
    with path.open("rb") as handle:
        head = handle.read(32)
    for start, words in _OTHERS.items():
        if head.startswith(start):
            raise DataError(f"{path}: {words}")
    if head and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        raise DataError(f"{path}: a text file, which holds no tensors")


def read_pickled(path: Path, device: torch.device | str, *, strict: bool) -> Any:
    """Read what `torch.save` wrote, where not strict with `Unread` in place of other objects.

    Raises:
        DataError: it would nest without end, or allocate what it does not hold.
        pickle.UnpicklingError: it is broken, or has more than data and objects.
    """
    called, unsafe = refuse_hostile(path), []
    if not strict and zipfile.is_zipfile(path):
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    # What torch itself would call, and it allocates as much as it is told to.
    if refused := sorted(called.difference(unsafe)):
        raise DataError(f"refused: it calls {refused[0]!r}, as no file of plain tensors does")
    stand_ins: list[Any] = [(type("Unread", (Unread,), {"name": name}), name) for name in unsafe]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location=device, weights_only=True)
