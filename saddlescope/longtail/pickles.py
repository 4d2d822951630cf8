"""Read the pickles of the official CIFAR folders without running what is in them.

A pickle is a program. Here only opcodes that build data are let through, and the few names that
a NumPy array needs are bound to stand-ins of our own: no imported function is ever called, and
not even NumPy's own unpickling (which trusts the flags of a dtype) sees the file. The names
cover files written by Python 2, by NumPy 1 (`numpy.core`) and by NumPy 2 (`numpy._core`).
"""

import math
import os
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from saddlescope.errors import DataError
from saddlescope.longtail.nesting import Nesting

_OPCODES: Final = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"),
        *("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
        *("EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    }
)
_MEMO_WRITES: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_CONTAINERS: Final = frozenset({"EMPTY_LIST", "LIST", "EMPTY_DICT", "DICT"})

_MOST_CONTAINERS: Final = 1000
"""Lists and dictionaries of a file; the official ones have fewer than ten."""

_MOST_AXES: Final = 32
"""Of an array; the product of a hundred thousand lengths takes minutes."""

_BYTES_AN_OPCODE: Final = 100
"""So many on average at least in the largest file allowed: an object of memory is 100 bytes, and an
opcode of one byte may make one."""


def read_pickle(path: Path, *, max_bytes: int) -> dict[str, Any]:
    """Read a pickled dictionary of plain values and NumPy arrays.

    Args:
        path: the file.
        max_bytes: a larger file is refused before it is read.

    Returns:
        The dictionary; its keys as str, byte strings below it as bytes.

    Raises:
        DataError: a file that is missing, too large, cut short, damaged, holds anything but
            data ("refused"), or is not a dictionary.
    """
    try:
        # Without blocking: opening a named pipe would wait for its writer.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            if not path.is_file():
                raise DataError("not a regular file")
            if size > max_bytes:
                raise DataError(
                    f"{size:,} bytes, more than the {max_bytes:,} an official file can take; "
                    "unpack the official archive again"
                )
            _scan(handle, size, most=1000 + max_bytes // _BYTES_AN_OPCODE)
            handle.seek(0)
            content = _DataUnpickler(handle, encoding="bytes", budget=size).load()
    except FileNotFoundError:
        raise DataError(f"{path}: missing; unpack the official archive again") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # damaged pickles raise almost any type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: not a complete pickle ({reason}); unpack the official archive again"
        ) from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not a dictionary")
    if not all(isinstance(key, bytes | str) for key in content):
        raise DataError(f"{path}: a key of the dictionary is not text")
    return {_text(key): _value(value) for key, value in content.items()}


def _scan(handle: IO[bytes], size: int, *, most: int) -> None:
    """Go through the opcodes without executing any, and refuse what no data needs.

    A memo index beyond the file's size would make the unpickler allocate that many slots, an
    integer of thousands of digits cannot even be printed, a tuple of many levels ends the
    interpreter, and one byte may stand for an object of a hundred.
    """
    nesting, containers = Nesting(), 0
    for number, (opcode, argument, position) in enumerate(pickletools.genops(handle)):
        containers += opcode.name in _CONTAINERS
        if number > most or containers > _MOST_CONTAINERS:
            raise DataError("refused: more objects than an official file has")
        if opcode.name not in _OPCODES:
            raise DataError(f"refused: opcode {opcode.name} at byte {position} is not data")
        nesting.after(opcode, argument, position)
        if not isinstance(argument, int):
            continue
        if argument.bit_length() > 64:
            raise DataError(f"refused: the integer at byte {position} has more than 64 bits")
        if opcode.name in _MEMO_WRITES and argument > size:
            raise DataError(f"refused: memo index {argument} at byte {position} is out of reach")


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise DataError(f"a {type(value).__name__} where a name is expected")


def _value(value: object) -> object:
    return value.value if isinstance(value, _Array) else value


class _StandIn:
    """What an allowed name in a pickle is bound to: callable, and nothing can be stored on it."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise DataError("refused: a pickled name is given a state")

    def __setstate__(self, state: object) -> None:
        raise DataError("refused: a pickled name is given a state")


class _Dtype:
    """A numeric dtype: made from "u1" and the like, byte order set by its state."""

    __slots__ = ("value",)

    def __init__(self, code: object, *_copy_and_align: object) -> None:
        name = _text(code)
        if not re.fullmatch(r"[|<>=]?[biuf][1248]", name):
            raise DataError(f"refused: an array of dtype {name[:40]!r}, not of numbers")
        self.value = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = _text(state[1])
        if order not in ("|", "<", ">", "="):
            raise DataError(f"refused: a dtype with byte order {order[:40]!r}")
        self.value = self.value.newbyteorder("=" if order == "|" else order)  # type: ignore[arg-type]


class _Array:
    """An array: empty at first, filled by its state (version, shape, dtype, fortran, bytes)."""

    __slots__ = ("value",)

    def __init__(self, *_type_shape_code: object) -> None:
        self.value: np.ndarray[Any, Any] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise DataError("refused: an array without plain bytes")
        if len(shape) > _MOST_AXES:
            raise DataError(f"refused: an array of {len(shape)} axes")
        if any(length < 0 for length in shape):
            raise DataError(f"an array of shape {shape}")
        if math.prod(shape) * dtype.value.itemsize != len(raw):
            raise DataError(f"an array of shape {shape} with {len(raw)} bytes")
        flat = np.frombuffer(raw, dtype.value)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: _Dtype, raw: bytes) -> int | float:
    if len(raw) != dtype.value.itemsize:
        raise DataError(f"a number of {dtype.value.itemsize} bytes with {len(raw)} bytes")
    return np.frombuffer(raw, dtype.value)[0].item()


class _Encode:
    """How Python 3 writes bytes for protocol 2: each text once, so never more than the file has."""

    def __init__(self, budget: int) -> None:
        self._left = budget

    def __call__(self, text: str, encoding: object) -> bytes:
        name = _text(encoding)
        if name not in ("latin1", "latin-1"):
            raise DataError(f"refused: text in the encoding {name[:40]!r}")
        self._left -= len(text)
        if self._left < 0:
            raise DataError("refused: one text is made bytes again and again")
        return text.encode("latin-1")


def _never_called(*_arguments: object) -> None:
    raise DataError("refused: numpy.ndarray is called")


_ALLOWED: Final = {
    ("numpy", "dtype"): _StandIn(_Dtype),
    ("numpy", "ndarray"): _StandIn(_never_called),
    ("__builtin__", "bytes"): _StandIn(lambda: b""),  # protocol 2 writes b"" as bytes()
} | {
    (module, name): _StandIn(function)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name, function in (("_reconstruct", _Array), ("scalar", _scalar))
}


class _DataUnpickler(pickle.Unpickler):
    """An unpickler that knows the stand-ins and no other name."""

    def __init__(self, handle: IO[bytes], *, encoding: str, budget: int) -> None:
        super().__init__(handle, encoding=encoding)
        self._encode = _StandIn(_Encode(budget))

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == ("_codecs", "encode"):
            return self._encode
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise DataError(
                f"refused: it calls {f'{module_name}.{global_name}'!r}, as no official file does"
            ) from None
