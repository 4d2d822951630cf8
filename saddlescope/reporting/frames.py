"""Tables as DataFrames, and DataFrames as CSV, Markdown and LaTeX text.

The frames hold plain numbers for further work; rounding happens only in the text forms made for
reading (Markdown, LaTeX). CSV keeps every bit.
"""

import math
import re
from typing import Any, Final

import pandas as pd

from saddlescope.reporting.loading import Run
from saddlescope.reporting.selection import Selection
from saddlescope.reporting.text import SHOTS, class_order, number
from saddlescope.runs import SPECTRUM_COLUMNS

CLASS_COLUMNS: Final = (
    "label", "run", "method", "train_seed", "kind", "name", "class_name", "n",
    "lambda_max", "lambda_max_lower", "lambda_max_upper",
    "lambda_min", "lambda_min_lower", "lambda_min_upper",
    "lambda_ratio", "lambda_ratio_lower", "lambda_ratio_upper",
    "confidence", "gradient_norm", "verdict", "converged",
    "split", "criterion", "operator", "parameters", "weight_decay", "epoch", "checkpoint", "seed",
    "dtype", "device", "matvecs",
)  # fmt: skip
"""`train_seed` is the network's, `seed` that of the Lanczos start vector."""

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "−": "$-$", "∞": r"$\infty$", "—": "---",
}  # fmt: skip


def class_table(chosen: Selection) -> pd.DataFrame:
    """List the rows compared: one for each network, class or group, and Lanczos start."""
    if chosen.rows.empty:
        return pd.DataFrame(columns=list(CLASS_COLUMNS))
    rows = chosen.rows.assign(
        run=[chosen.runs[index].name for index in chosen.rows["index"]],
        class_name=[
            _class_name(chosen.runs[index], kind, name)
            for index, kind, name in chosen.rows[["index", "kind", "name"]].to_numpy()
        ],
    )
    places = {name: place for place, name in enumerate(sorted(set(rows["name"]), key=class_order))}
    rows = rows.assign(place=[places[name] for name in rows["name"]])
    rows = rows.sort_values(["index", "place", "seed"], kind="stable")
    return rows[list(CLASS_COLUMNS)].reset_index(drop=True)


def spectrum_table(chosen: Selection) -> pd.DataFrame:
    """List every spectrum row of every run as measured: all splits, checkpoints and criteria."""
    measured = [run for run in chosen.runs if len(run.spectra)]
    frames = [run.spectra.assign(run=run.name).astype(object) for run in measured]
    return pd.concat(frames or [pd.DataFrame(columns=list(SPECTRUM_COLUMNS))], ignore_index=True)


def accuracy_table(chosen: Selection) -> pd.DataFrame:
    """List test accuracies in percent: each run's last epoch, and apart from it the best on test.

    Columns `flip_…` are of the last epoch too, with the outputs averaged over each image and its
    mirror image.

    The best epoch is the one with the highest average accuracy on the test split itself; it is
    what papers of this line print and flatters every method, so the last epoch comes first.
    """
    table = []
    for run, label in zip(chosen.runs, chosen.labels, strict=True):
        row: dict[str, Any] = {"label": label, "run": run.name, "method": run.method}
        row |= {"train_seed": run.seed, "epoch": None, "best_epoch": None}
        metrics = run.metrics
        last = metrics.iloc[-1] if len(metrics) else None
        scored = metrics["acc_avg"].fillna(-1.0)
        best = metrics.iloc[int(scored.argmax())] if (scored >= 0).any() else None
        for prefix, source, ending in (
            ("", last, ""),
            ("flip_", last, "_flip"),
            ("best_", best, ""),
        ):
            if source is not None and not ending:
                row[f"{prefix}epoch"] = int(source["epoch"])
            for shot in SHOTS:
                column = f"acc_{shot}{ending}"
                row[prefix + shot] = math.nan if source is None else 100 * float(source[column])
        table.append(row)
    columns = ["label", "run", "method", "train_seed", "epoch", *SHOTS]
    columns += [f"flip_{shot}" for shot in SHOTS]
    columns += ["best_epoch", *(f"best_{shot}" for shot in SHOTS)]
    return pd.DataFrame(table, columns=columns)


def to_csv(frame: pd.DataFrame) -> str:
    """Write CSV with every bit of every number, lines ended by a newline."""
    return frame.to_csv(index=False, lineterminator="\n")


def to_markdown(frame: pd.DataFrame, *, digits: int = 3) -> str:
    """Write a pipe table with `digits` significant digits; markup in cells is escaped."""
    rows = [[_markdown(str(name)) for name in frame.columns]]
    rows.append(["---:" if numeric else "---" for numeric in _numeric(frame)])
    rows += [[_markdown(_cell(cell, digits)) for cell in row] for row in _cells(frame)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def to_latex(frame: pd.DataFrame, *, digits: int = 3) -> str:
    """Write a booktabs `tabular` with `digits` significant digits; special characters escaped."""
    spec = "".join("r" if numeric else "l" for numeric in _numeric(frame))
    lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
    lines += [" & ".join(_latex(str(name)) for name in frame.columns) + r" \\", r"\midrule"]
    for row in _cells(frame):
        lines.append(" & ".join(_latex(_cell(cell, digits)) for cell in row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _class_name(run: Run, kind: str, name: str) -> str:
    names = dict(zip(map(str, range(len(run.class_names))), run.class_names, strict=True))
    return names.get(name, "") if kind == "class" else ""


def _cells(frame: pd.DataFrame) -> list[list[Any]]:
    return frame.astype(object).to_numpy().tolist()


def _numeric(frame: pd.DataFrame) -> list[bool]:
    return [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]


def _cell(cell: Any, digits: int) -> str:
    if cell is None or cell is pd.NA:
        return "—"
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e6 else number(cell, digits)
    return str(cell)


def _markdown(text: str) -> str:
    text = " ".join(text.split())
    for mark, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(mark, safe)
    return re.sub(r"([\\`*_\[\]|$])", r"\\\1", text)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
