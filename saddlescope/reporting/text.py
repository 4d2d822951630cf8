"""Text that came from a file, made safe to show, and numbers made short enough to read.

Labels and recipes are shown as they are, but control characters (terminal escapes, NUL) and the
characters that turn the writing direction around would act on the reader's screen, and lone
surrogates cannot be written as UTF-8; they become U+FFFD. HTML escaping is left to the template.
"""

import math
import re
from typing import Any

from saddlescope.runs import CLASSIFIERS, METHODS

_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(value: Any) -> Any:
    """Replace acting characters in every string of `value`, keys included."""
    if isinstance(value, str):
        return _ACTING.sub("\ufffd", value.replace("\r\n", "\n"))
    if isinstance(value, dict):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def method_label(method: str) -> str:
    """The name the paper prints, or the key itself for a method the paper does not have.

    Of a network with a new classifier both parts: "sam+crt" is "SAM + cRT".
    """
    first, plus, classifier = method.partition("+")
    label = METHODS[first].label if first in METHODS else first
    return f"{label} + {CLASSIFIERS.get(classifier, classifier)}" if plus else label


def shorten(text: str, width: int) -> str:
    """One line of at most `width` characters, with an ellipsis where something was cut."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def shorten_middle(text: str, width: int) -> str:
    """As `shorten`, cut in the middle: names of runs often differ only at their end."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return text[: width - 1 - end] + "…" + text[len(text) - end :]


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits; `—` for NaN, `∞` for infinity, a true minus sign."""
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
    """`[lower, upper]`, with enough digits to tell the ends apart; `—` when neither is known."""
    if math.isnan(lower) and math.isnan(upper):
        return "—"
    while digits < 8 and number(lower, digits) == number(upper, digits) and lower != upper:
        digits += 1
    return f"[{number(lower, digits)}, {number(upper, digits)}]"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage without the sign; `—` when unknown."""
    return "—" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def listing(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """`1 row`, `2 rows`."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"
