"""A check of the instrument in a terminal: its intervals, what others say, what it rests on."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from saddlescope.reporting.text import interval, number, plural, shorten

WIDTH = 100


def check_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a check as aligned tables of at most 100 columns, one a class or group.

    Args:
        rows: with the fields of `saddlescope.measurement.CheckRow`; the first row of a class or
            group is the measurement that the others are held to.
    """
    blocks = []
    for (kind, name, n), some in groupby(rows, lambda row: (row["kind"], row["name"], row["n"])):
        title = shorten(f"{kind} {name}, {plural(n, 'sample')}", 28)
        measured, *others = some
        ends = [row for row in others if row["difference"] is None]
        tests = [row for row in others if row["difference"] is not None]
        lines = [
            f"{title:<28}{'λ_max':>12}{'inside':>9}{'λ_min':>12}{'inside':>9}{'products':>10}"
            f"{'seconds':>9}",
            _ends(measured),
            *_intervals(measured),
            *_note(measured),
        ]
        for row in ends:
            lines += [_ends(row), *_error(row), *_note(row)]
        if tests:
            lines.append(f"{'':<28}{'differs by':>12}{'allowed':>12}")
        for row in tests:
            lines += [_test(row), *_note(row)]
        blocks.append("\n".join(line.rstrip() for line in lines))
    return "\n\n".join(blocks)


def _ends(row: Mapping[str, Any]) -> str:
    cells = ""
    for end in ("lambda_max", "lambda_min"):
        inside = {True: "yes", False: "NO", None: ""}[row[f"{end}_inside"]]
        cells += f"{number(row[end], 5):>12}{inside:>9}"
    products = "—" if row["products"] is None else str(row["products"])
    return f"  {row['tool']:<26}{cells}{products:>10}{row['seconds']:>9.1f}"


def _intervals(row: Mapping[str, Any]) -> list[str]:
    both = [
        f"{sign} {interval(row[f'{end}_lower'], row[f'{end}_upper'], 4)}"
        for sign, end in (("λ_max", "lambda_max"), ("λ_min", "lambda_min"))
    ]
    return _wrapped(f"intervals: {', '.join(both)}")


def _error(row: Mapping[str, Any]) -> list[str]:
    """A reference's own error, where the digits printed of its value do not hold to it."""
    shown = []
    for sign, end in (("λ_max", "lambda_max"), ("λ_min", "lambda_min")):
        value, upper = row[end], row[f"{end}_upper"]
        if value is not None and upper is not None and upper - value > 1e-3 * abs(value):
            shown.append(f"{sign} ± {number(upper - value, 2)}")
    return _wrapped(f"own error: {', '.join(shown)}") if shown else []


def _test(row: Mapping[str, Any]) -> str:
    verdict = "agrees" if row["agrees"] else "DOES NOT AGREE"
    return (
        f"  {row['tool']:<26}{number(row['difference'], 2):>12}{number(row['allowed'], 2):>12}"
        f"  {verdict}"
    )


def _note(row: Mapping[str, Any]) -> list[str]:
    return _wrapped(row["note"])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)
