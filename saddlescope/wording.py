"""Words for people that several rooms need; a leaf."""

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
