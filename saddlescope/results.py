"""Results in a person's hands: printed, as a table, drawn.

A result names its columns and draws itself; the rest is written here once. pandas and matplotlib
are loaded when they are asked for. Colours and marks are those of the report.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from saddlescope.palette import OTHER, house_style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_ROWS, _FIRST = 12, 4
"""Rows of a table that are shown beside its picture, and how many of a longer one."""

GREY = "#6b7075"


class Number:
    """Let a value with an error stand where a float may: `float()`, format, comparison, `abs`.

    Comparison is that of the values; whether two intervals part is another question.
    """

    value: float

    def __float__(self) -> float:
        return self.value

    def __abs__(self) -> float:
        return abs(self.value)

    def __format__(self, form: str) -> str:
        return format(self.value, form) if form else str(self)

    def __lt__(self, other: Any) -> bool:
        return self._compared(other, float.__lt__)

    def __le__(self, other: Any) -> bool:
        return self._compared(other, float.__le__)

    def __gt__(self, other: Any) -> bool:
        return self._compared(other, float.__gt__)

    def __ge__(self, other: Any) -> bool:
        return self._compared(other, float.__ge__)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Number):
            return type(self) is type(other) and _fields(self) == _fields(other)
        return float(self.value) == other

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return str(self)

    def _compared(self, other: Any, test: Callable[[float, float], bool]) -> bool:
        if not isinstance(other, Real | Number | np.ndarray):
            return NotImplemented
        return test(float(self.value), float(other))


class Result:
    """Give a result `to_dict`, `to_frame`, `plot` and a place in a notebook.

    A subclass is a dataclass that defines `columns` and `_draw`.
    """

    def columns(self) -> Mapping[str, Any]:
        """Return the result as named columns: lists or arrays of one length."""
        raise NotImplementedError

    def _draw(self, axes: "Axes") -> None:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return every field as plain Python: numbers, words, lists; vectors of length n left out.

        `json.dumps` takes it. NaN and infinite bounds stay what they are.
        """
        return _plain(self)

    def to_frame(self) -> "pd.DataFrame":
        """Return a pandas DataFrame of the columns, one row an item."""
        import pandas as pd

        return pd.DataFrame(dict(self.columns()))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the result.

        Args:
            ax: matplotlib axes to draw into; None makes a figure of its own.

        Returns:
            The axes, to be changed or saved: `result.plot().figure.savefig("picture.svg")`.
        """
        with _style():
            if ax is None:
                import matplotlib.pyplot as plt

                _, ax = plt.subplots(figsize=(4.6, 2.7), layout="constrained")
            self._draw(ax)
        return ax

    def _repr_html_(self) -> str:
        """Show a small picture and the first rows, as notebooks do with what stands last."""
        frame = self.to_frame()
        shown = frame if len(frame) <= _ROWS else frame.head(_FIRST)
        table = shown.to_html(index=False, border=0, float_format=lambda x: f"{x:.4g}")
        more = f"<p>{len(frame) - _FIRST} more rows</p>" if len(frame) > _ROWS else ""
        notes = "".join(f"<li>{escape(note)}</li>" for note in getattr(self, "notes", ()))
        notes = f"<ul>{notes}</ul>" if notes else ""
        return (
            f'<div style="display:flex;gap:1.5em;align-items:center">{self._picture()}'
            f"<div>{table}{more}</div></div>{notes}"
        )

    def _picture(self) -> str:
        """Return the drawing as an SVG element."""
        import io

        from matplotlib.figure import Figure

        with _style():
            figure = Figure(figsize=(3.4, 2.0), layout="constrained")
            self._draw(figure.subplots())
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        text = buffer.getvalue()
        return text[text.index("<svg") :]


@contextmanager
def _style() -> Iterator[None]:
    """The report's style; labels are ours, so that powers of ten may be set as such."""
    import matplotlib

    with house_style():
        matplotlib.rcParams["text.parse_math"] = True
        yield


def draw_interval(
    axes: "Axes", row: float, value: float, lower: float, upper: float, *, filled: bool = True
) -> None:
    """Draw a value with its interval lengthwise; an infinite end leaves the axes as an arrow.

    Args:
        axes: where.
        row: height.
        value: NaN where it is not resolved; then an open mark stands at the finite bound.
        lower: below which it does not lie.
        upper: above which it does not lie.
        filled: False draws an open mark, of what has not converged.
    """
    anchor = next((x for x in (value, lower, upper) if math.isfinite(x)), None)
    if anchor is None:
        return
    reach = [[max(anchor - lower, 0.0)], [max(upper - anchor, 0.0)]]
    ends = [[x[0] if math.isfinite(x[0]) else 0.0] for x in reach]
    axes.errorbar(
        [anchor], [row], xerr=ends, color=OTHER.color, marker="o", linestyle="none", capsize=3,
        markerfacecolor=OTHER.color if filled and math.isfinite(value) else "#ffffff",
    )  # fmt: skip
    for side, (length,) in zip((-1, 1), reach, strict=True):
        if not math.isfinite(length):  # the head of "<-" is at the text's end, 28 points away
            axes.annotate(
                "", xy=(anchor, row), xytext=(28 * side, 0), textcoords="offset points",
                arrowprops={"arrowstyle": "<-", "color": OTHER.color}, annotation_clip=False,
            )  # fmt: skip


def text_of(value: float, lower: float, upper: float) -> str:
    """Write `11.9 [11.0, 11.9]`, with digits enough to tell the two bounds apart."""
    digits = 3
    while digits < 9 and lower != upper and _short(lower, digits) == _short(upper, digits):
        digits += 1
    return f"{_short(value, digits)} [{_short(lower, digits)}, {_short(upper, digits)}]"


def _short(value: float, digits: int) -> str:
    """Write so many significant digits, zeros at the end included; no point at the very end."""
    return f"{value:#.{digits}g}".removesuffix(".") if math.isfinite(value) else str(value)


def _fields(number: Any) -> tuple[Any, ...]:
    return tuple(repr(getattr(number, field.name)) for field in dataclasses.fields(number))


def _plain(value: Any) -> Any:
    """Fields, arrays and tuples as dicts and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {name: item for name, item in found.items() if item is not _LEFT_OUT}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else _LEFT_OUT


_LEFT_OUT: Any = object()
