"""Numbers and labels made short enough to read."""

import math
from typing import Final

from saddlescope.runs import CLASSIFIERS, METHODS

SHOTS: Final = {"many": "Many", "medium": "Medium", "few": "Few", "avg": "Avg"}
"""Ending of an accuracy column (`acc_…`) to the name the paper prints."""


def method_label(method: str) -> str:
    """Return the name the paper prints, or the key itself for a method the paper does not have.

    Of a network with a new classifier both parts: "sam+crt" is "SAM + cRT".
    """
    first, plus, classifier = method.partition("+")
    label = METHODS[first].label if first in METHODS else first
    return f"{label} + {CLASSIFIERS.get(classifier, classifier)}" if plus else label


def shorten(text: str, width: int) -> str:
    """Cut to one line of at most `width` characters, with an ellipsis where something was cut."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def shorten_middle(text: str, width: int) -> str:
    """Cut as `shorten` does, but in the middle: names of runs often differ only at their end."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return text[: width - 1 - end] + "…" + text[len(text) - end :]


def number(value: float | None, digits: int = 3) -> str:
    """Write `digits` significant digits; `—` for NaN, `∞` for infinity, a true minus sign."""
    if value is None or math.isnan(value):
        return "—"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    if -4 <= exponent < 6:
        text = f"{value:.{max(0, digits - 1 - exponent)}f}"
    else:
        text = f"{value:.{digits - 1}e}"
    return text.replace("-", "−", 1) if value < 0 else text


def interval(lower: float, upper: float, digits: int = 3) -> str:
    """Write `[lower, upper]`, with enough digits to tell them apart; `—` when neither is known."""
    if math.isnan(lower) and math.isnan(upper):
        return "—"
    digits = _digits_of(lower, upper, digits)
    return f"[{number(lower, digits)}, {number(upper, digits)}]"


def number_within(value: float, lower: float, upper: float, digits: int = 3) -> str:
    """Write a number with as many digits as `interval` gives its bounds, so that it lies within."""
    return number(value, _digits_of(lower, upper, digits))


def _digits_of(lower: float, upper: float, digits: int) -> int:
    while digits < 8 and number(lower, digits) == number(upper, digits) and lower != upper:
        digits += 1
    return digits


def percent(value: float | None, digits: int = 1) -> str:
    """Write a fraction as a percentage without the sign; `—` when unknown."""
    return "—" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def decimal(value: float | None) -> str:
    """Write one decimal; `—` when unknown."""
    return "—" if value is None or math.isnan(value) else f"{value:.1f}"


def whole(value: float | None) -> str:
    """Write a whole number; `—` when unknown."""
    return "—" if value is None or math.isnan(value) else str(int(value))


def listing(items: list[str]) -> str:
    """Write `a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Write `1 row`, `2 rows`."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def class_order(name: str) -> tuple[int, int, str]:
    """Sort key: the group `all`, other groups, then classes by number."""
    if name.isdecimal() and len(name) < 19:  # Python reads no number of thousands of digits
        return (2, int(name), name)
    return (0 if name == "all" else 1, 0, name)
