"""Look at a checkpoint before and after it is read: its opcodes, and its checksum.

`torch.load(weights_only=True)` runs no foreign code, but it may be told to allocate any amount of
memory or to nest tuples until the interpreter ends, and it does not notice a bit that has changed
on disk: torch writes checksums and does not read them.
"""

import hashlib
import io
import os
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import torch
from torch import Tensor

from saddlescope.errors import DataError
from saddlescope.longtail import Nesting

SEAL: Final = "saddlescope_checksum"
"""The entry of a checkpoint that holds the checksum of all others."""

_LARGEST_PICKLE: Final = 1 << 28
"""Bytes of the opcodes of a checkpoint; a thousand tensors take 200 kB."""

_MOST_OPCODES: Final = 1_000_000
"""Of a checkpoint: a tensor takes about 40, an object of a byte in the file 200 bytes of memory."""

_MOST_COPIES: Final = 8
"""How often a checkpoint may stand in memory, where tensors share what is in the file."""

_CALLED: Final = frozenset(
    {"collections.OrderedDict", "torch.Size", "torch.device", "builtins.set", "builtins.complex"}
)
"""What a checkpoint may call beside the functions that rebuild a tensor: nothing that allocates as
much as it is told to, such as a storage or a bytearray."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with its checksum."""
    return {**content, SEAL: _checksum(content)}


def opened(content: dict[str, Any], *, origin: str, size: int) -> dict[str, Any]:
    """Return the content without its checksum; anybody's that has none is taken as it is.

    Args:
        content: of a checkpoint.
        origin: of the checkpoint, for messages.
        size: of its file in bytes.

    Raises:
        DataError: it is not what was written, or its tensors are larger than the file by far.
    """
    if _bytes_of(content) > _MOST_COPIES * size:
        raise DataError(f"{origin}: refused: its tensors are many times as large as the file")
    if SEAL not in content:
        return content
    inside = {key: value for key, value in content.items() if key != SEAL}
    if content[SEAL] != _checksum(inside):
        raise DataError(
            f"{origin}: damaged: its content does not match its checksum; take another checkpoint, "
            "or delete it and train again"
        )
    return inside


def _bytes_of(value: Any) -> int:
    """Bytes of all tensors in a value as if none shared its memory with itself or with another."""
    if isinstance(value, Tensor):
        kept = value.device.type != "meta" and value.layout == torch.strided
        return value.numel() * value.element_size() if kept else 0
    if isinstance(value, Mapping):
        return sum(map(_bytes_of, value.values()))
    return sum(map(_bytes_of, value)) if isinstance(value, list | tuple) else 0


def _checksum(content: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, content)
    return digest.hexdigest()


def _feed(digest: "hashlib.blake2b", value: Any) -> None:
    """Add a value and all that is in it; two values of one digest are equal."""
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        if value.device.type != "meta" and value.layout == torch.strided:
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"dict {len(value)};".encode())
        for key, item in value.items():
            _feed(digest, key)
            _feed(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)};".encode())
        for item in value:
            _feed(digest, item)
    else:
        text = repr(value).encode("utf-8", "backslashreplace")
        digest.update(f"{type(value).__name__} {len(text)};".encode())
        digest.update(text)


def refuse_hostile(path: Path) -> frozenset[str]:
    """Go through the opcodes of a file of `torch.save` without executing any.

    Returns:
        The names that it calls, beside those that make tensors and plain values.

    Raises:
        DataError: it would nest without end, or allocate what it does not hold.
    """
    called: set[str] = set()
    with open(path, "rb") as handle:
        if not zipfile.is_zipfile(handle):
            handle.seek(0)
            # As before torch 1.6: magic number, version, system, content, keys.
            _scan(called, *[handle] * 5)
            return frozenset(called)
        with zipfile.ZipFile(handle) as archive:
            size = os.fstat(handle.fileno()).st_size
            if sum(entry.file_size for entry in archive.infolist()) > 2 * size:
                raise DataError("refused: its entries are compressed to a fraction of their size")
            for entry in archive.infolist():
                if entry.filename.endswith("data.pkl"):
                    if entry.file_size > _LARGEST_PICKLE:
                        raise DataError("refused: more objects than a checkpoint has")
                    with archive.open(entry) as packed:  # no more than it says to be
                        _scan(called, io.BytesIO(packed.read(entry.file_size)))
    return frozenset(called)


def _scan(called: set[str], *pickles: IO[bytes]) -> None:
    def note(name: str | None) -> None:
        # As Python 2 called it, and as protocol 2 still does.
        name = name and name.replace("__builtin__.", "builtins.")
        if name is not None and name not in _CALLED and "._rebuild" not in name:
            called.add(name)

    left = _MOST_OPCODES
    for handle in pickles:
        nesting = Nesting(note)
        for opcode, argument, position in pickletools.genops(handle):
            left -= 1
            if left < 0:
                raise DataError("refused: more objects than a checkpoint has")
            nesting.after(opcode, argument, position)
