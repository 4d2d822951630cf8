"""Words for people that several rooms need; a leaf."""

import math
from collections.abc import Iterable


def ranges(numbers: Iterable[int]) -> str:
    """Return ascending numbers with their runs joined: 0, 1, 2, 5 as "0-2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def exact(value: float) -> str:
    """Return a number as text that reads back as the same number, and short where that can be."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def percent(share: float, digits: int = 6) -> str:
    """Return a probability in per cent, rounded down where it would read as certain."""
    text = f"{100 * share:.{digits}g}"
    if share < 1.0 <= float(text) / 100:
        places = max(1, math.ceil(-math.log10(1.0 - share)) - 2)
        text = f"{math.floor(100 * share * 10**places) / 10**places:.{places}f}"
    return f"{text} %"
