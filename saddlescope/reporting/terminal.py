"""The answer in a terminal: accuracy, λ_ratio with bounds, verdicts, within 100 columns."""

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from saddlescope.reporting.findings import find
from saddlescope.reporting.frames import accuracy_table
from saddlescope.reporting.selection import Panel, Selection, spread
from saddlescope.reporting.text import (
    decimal,
    interval,
    number,
    number_within,
    plural,
    shorten,
    shorten_middle,
    whole,
)
from saddlescope.runs import WHOLE_HESSIAN, matrix_words
from saddlescope.wording import percent

WIDTH = 100
_BAR = 16
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def summary_text(chosen: Selection) -> str:
    """Describe runs in plain text of at most 100 columns, without colour or escapes."""
    if not chosen.runs:
        return "No runs.\n"
    blocks = [_accuracy(chosen)] if chosen.of_methods else []
    if not chosen.rows.empty:
        blocks.append(
            "λ_ratio = |λ_max/λ_min|"
            + (": the higher, the further from a saddle in the paper's sense." * chosen.of_the_loss)
            + f"\n{shorten(chosen.scope(), WIDTH)}"
        )
        blocks += [_panel(chosen, panel) for panel in chosen.panels]
        blocks.append(_verdicts(chosen))
    blocks.append("\n".join(_wrap(sentence) for sentence in find(chosen).limits))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _accuracy(chosen: Selection) -> str:
    table = accuracy_table(chosen)
    lines = [
        f"{'Test accuracy (%)':<32}{'epoch':>6}{'Many':>8}{'Medium':>8}{'Few':>8}{'Avg':>8}"
        f"{'best on test: Avg':>20}{'epoch':>8}"
    ]
    for row in table.to_dict("records"):
        shots = "".join(f"{decimal(row[key]):>8}" for key in ("many", "medium", "few", "avg"))
        last, best = (whole(row[key]) for key in ("epoch", "best_epoch"))
        label = shorten_middle(row["label"], 31)
        lines.append(f"{label:<32}{last:>6}{shots}{decimal(row['best_avg']):>20}{best:>8}")
    return "\n".join(lines)


def _panel(chosen: Selection, panel: Panel) -> str:
    ratios = chosen.ratios(panel.kind, panel.name)
    known = [ratio.value for ratio in ratios.values() if math.isfinite(ratio.value)]
    top = max(known, default=math.nan)
    lines = []
    for index, label in enumerate(chosen.labels):
        if (ratio := ratios.get(index)) is None:
            lines.append(f"  {shorten_middle(label, 23):<24}not measured")
            continue
        value = number_within(ratio.value, ratio.lower, ratio.upper)
        bounds = interval(ratio.lower, ratio.upper)
        lines.append(
            f"  {shorten_middle(label, 23):<24}{value:>7} {bounds:<18}"
            f"{_drawn(ratio.value, top, _BAR)} ‖∇L‖ {number(ratio.gradient_norm, 2):<8}"
            f"{shorten(ratio.verdict, 18)}"
        )
    samples = spread(ratio.n for ratio in ratios.values()) if ratios else 0
    return "\n".join([f"{panel.title} (n = {samples})", *lines])


def _verdicts(chosen: Selection) -> str:
    lines = []
    for index, label in enumerate(chosen.labels):
        counts = Counter(ratio.verdict for ratio in chosen.class_ratios.get(index, ()))
        text = ", ".join(f"{count} {shorten(word, 20)}" for word, count in counts.most_common())
        lines.append(f"  {shorten_middle(label, 23):<24}{shorten(text or 'not measured', 72)}")
    total = plural(len(chosen.names("class")), "class", "classes")
    return "\n".join([f"Verdicts by class ({total})", *lines])


def _drawn(value: float, top: float, width: int) -> str:
    """A bar of `width` cells at most, in eighths of a cell."""
    if not math.isfinite(value) or not top > 0:
        return " " * width
    full, rest = divmod(round(8 * width * max(value, 0) / top), 8)
    return ("█" * full + _EIGHTHS[rest].strip()).ljust(width)


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def spectrum_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Spectrum rows as an aligned table of at most 100 columns.

    Of several start vectors the lowest seed's rows are shown, and below it is said how far the
    others lie from them.

    Args:
        rows: Rows with the columns of `saddlescope.runs.SPECTRUM_COLUMNS`, of one matrix.
    """
    every, seeds = rows, sorted({row["seed"] for row in rows})
    rows = [row for row in rows if row["seed"] == seeds[0]]
    top = max(
        (row["lambda_ratio"] for row in rows if math.isfinite(row["lambda_ratio"])),
        default=math.nan,
    )
    lines = [
        f"{'':<7}{'n':>6}{'λ_max':>10}{'λ_min':>10}{'λ_ratio':>9}  {'interval':<16}"
        f"{'':<10}{'‖∇L‖':<9}verdict"
    ]
    for row in rows:
        label = row["name"] if row["kind"] == "group" else f"class {row['name']}"
        ratio = row["lambda_ratio"], row["lambda_ratio_lower"], row["lambda_ratio_upper"]
        bounds = interval(*ratio[1:])
        lines.append(
            f"{shorten(label, 9):<9}{row['n']:>4}{number(row['lambda_max']):>10}"
            f"{number(row['lambda_min']):>10}{number_within(*ratio):>9}  {bounds:<16}"
            f"{_drawn(row['lambda_ratio'], top, 8):<10}{number(row['gradient_norm'], 2):<9}"
            f"{row['verdict']}"
        )
    shares = sorted({percent(row["confidence"]) for row in rows})
    lines.append(f"Intervals hold jointly for a row with a probability of {', '.join(shares)}.")
    matrix = matrix_words(rows[0])
    if matrix != WHOLE_HESSIAN:
        lines.append(f"The matrix is {shorten(matrix, 80)}.")
    if len(seeds) > 1:
        lines.append(_wrap(_starts(every, seeds)))
    return "\n".join(lines)


def _starts(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """Which start vectors there are, and how far apart they end."""
    parts = []
    for column, label in (("lambda_max", "λ_max"), ("lambda_min", "λ_min")):
        found: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            found.setdefault((row["kind"], row["name"]), []).append(row[column])
        spans = [
            (max(values) - min(values)) / max(map(abs, values), default=0.0)
            for values in found.values()
            if any(values)
        ]
        parts.append(f"{label} by {100 * max(spans, default=0.0):.2g} %")
    listed = ", ".join(map(str, seeds))
    return (
        f"Start vectors {listed} were measured; {seeds[0]} is shown. Within a row they differ in "
        f"{' and in '.join(parts)} at most."
    )
