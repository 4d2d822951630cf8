"""How deep the containers of a pickle lie in one another, found without building any of them.

A tuple of some hundred thousand levels is a file of some hundred kilobytes, and asking for its hash
ends the interpreter. Each opcode says what it takes from the stack and what it leaves there
(`pickletools`), so the depth of what it leaves is known from the depths of what it takes.
"""

import pickletools
from collections.abc import Callable, Iterable
from typing import Any, Final

from saddlescope.errors import DataError

DEEPEST: Final = 100
"""Levels; the files that are read here have less than ten."""

_INTO: Final = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
_SETS_MEMO: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS_MEMO: Final = frozenset({"GET", "BINGET", "LONG_BINGET"})
_CALLS: Final = frozenset({"REDUCE", "NEWOBJ", "NEWOBJ_EX"})

_Item = tuple[int, str | None]
"""Depth, and of an imported name that name."""

_MARK: Final[_Item] = (-1, None)


class Nesting:
    """The stack of a pickle, one opcode after the other: depths, and the names of what is imported.

    Args:
        on_call: told the name of what a pickle calls, None where that is not an imported name.
    """

    def __init__(self, on_call: Callable[[str | None], None] = lambda _: None) -> None:
        self._stack: list[_Item] = []
        self._memo: dict[int, _Item] = {}
        self._on_call = on_call

    def after(self, opcode: pickletools.OpcodeInfo, argument: Any, position: int | None) -> None:
        """Follow an opcode.

        Raises:
            DataError: what it leaves is too deep, or it takes what is not there.
        """
        name, stack = opcode.name, self._stack
        try:
            if name == "MARK":
                stack.append(_MARK)
            elif name in _SETS_MEMO:
                self._memo[int(argument)] = stack[-1]
            elif name == "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            elif name in _GETS_MEMO:
                stack.append(self._memo[int(argument)])
            elif name == "GLOBAL":
                stack.append((0, str(argument).replace(" ", ".")))
            else:
                taken = self._take(opcode)
                if name in _CALLS:
                    self._on_call(taken[0][1])
                depths = [depth for depth, _ in taken]
                if name in _INTO:
                    depth = max(depths[0], 1 + max(depths[1:], default=0))
                else:
                    depth = 1 + max(depths) if depths else 0
                if depth > DEEPEST:
                    raise DataError(
                        f"refused: nested more than {DEEPEST} levels deep at byte {position}"
                    )
                stack += [(depth, None)] * len(opcode.stack_after)
        except (IndexError, KeyError):
            raise DataError(
                f"not a complete pickle (opcode {name} at byte {position} takes what is not there)"
            ) from None

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[_Item]:
        """Take what an opcode takes, in the order in which it was put there."""
        before: Iterable[Any] = opcode.stack_before
        taken: list[_Item] = []
        for kind in reversed(list(before)):
            if kind is pickletools.stackslice:
                while (item := self._stack.pop()) is not _MARK:
                    taken.append(item)
            elif kind is not pickletools.markobject:
                taken.append(self._stack.pop())
        return taken[::-1]
