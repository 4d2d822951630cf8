"""What was written down of single networks, row by row, and what was looked at afterwards."""

import itertools
from typing import Any, Final

import numpy as np
import pandas as pd
from study_claims import METHODS
from study_figures import ARMS, at_the_end, title

LATE: Final = "sgd-then-imbsam"


def table(header: list[str], body: list[list[str]], *, words: int = 1) -> str:
    """Format a Markdown table, everything but its first columns, of words, to the right."""
    rule = ["---"] * words + ["---:"] * (len(header) - words)
    lines = [" | ".join(line).replace("|λ_min|", "\\|λ_min\\|") for line in (header, rule, *body)]
    return "\n".join(f"| {line} |" for line in lines)


def verdict_text(rows: pd.DataFrame) -> str:
    """Count the rows that hold to what was written down of single networks (H1, H2, H4)."""
    last = at_the_end(rows)
    split = last.dropna(subset=["min_gauss_newton"])
    remainder = at_the_end(rows, "hessian-minus-gauss-newton")
    every = rows[(rows.operator == "hessian") & (rows.split == "train")]
    low = last[last.loss < 0.3]
    near = low.gradient_loss / low.lambda_max
    share = split.min_gauss_newton / split.lambda_min.abs()
    inside = (remainder.lambda_ratio_lower >= 0.9) & (remainder.lambda_ratio_upper <= 1 / 0.9)
    outside = (remainder.lambda_ratio_upper < 0.9) | (remainder.lambda_ratio_lower > 1 / 0.9)
    unequal = f"{spread(remainder.lambda_ratio)}; certainly unequal: {outside.sum()}"
    other = 1 / near
    lines: list[tuple[str, str, Any, str]] = [
        ("H1", "λ_min < 0", last.lambda_min_upper < 0, ""),
        ("H1", "v_minᵀGv_min < 0.2·|λ_min|", share < 0.2, spread(share)),
        ("H1", "ends of R certainly equal within 10 %", inside, unequal),
        ("H2", "‖∇L‖²/L = λ_max ± 25 % where L < 0.3", (near - 1).abs() <= 0.25, spread(near)),
        ("H2", "λ_max = ‖∇L‖²/L ± 25 % where L < 0.3", (other - 1).abs() <= 0.25, spread(other)),
        ("H4", "b = 0.05·|λ_min|/‖∇L‖ < 1, every epoch", every.step < 1, spread(every.step)),
    ]  # fmt: skip
    body = [
        [key, statement, f"{held.sum()} of {len(held)}", values]
        for key, statement, held, values in lines
    ]
    header = ["", "statement", "rows that hold", "smallest … largest"]
    return (
        f"### What was written down of single networks\n\n{table(header, body, words=2)}\n\n"
        "Looked at afterwards, so that it is no test. Rows of one network are not independent, and "
        f"class 9 is part of the tail.\n\n{_along(last)}\n\n"
        "How the ends go with the class loss L: rank correlations with it, the share of the "
        "variance of log λ_ratio that log L or the method explains, how often of two seeds of one "
        "method the higher L has the lower λ_ratio, and λ_ratio after SGD, then ImbSAM by what "
        "its L gives on the line of log λ_ratio over log L through the five methods.\n\n"
        + _of_the_loss(last)
    )


def _along(last: pd.DataFrame) -> str:
    """Write what is along the gradient and v_min."""
    high = last[last.loss >= 0.3]
    split = last.dropna(subset=["descent"])
    best = split[["min_ahead", "min_behind"]].min(axis="columns")
    near = split.curvature_005 / split.lambda_min
    wide = last.lambda_ratio_upper / last.lambda_ratio_lower
    found = [
        ("‖∇L‖²/L / λ_max where L ≥ 0.3", high.gradient_loss / high.lambda_max, 2),
        ("share of L left 0.05 along v_min or −v_min", best / split.loss, 2),
        ("share of L left 0.05 along −∇L", split.descent / split.loss, 3),
        ("share of ‖∇L‖² on curvature below −0.01·λ_max", split.gradient_below, 2),
        ("curvature at 0.05 / λ_min", near, 2),
        ("upper / lower end of λ_ratio's interval", wide, 2),
    ]
    body = [[words, f"{len(of)}", spread(of, digits)] for words, of, digits in found]
    return table(["what was looked at", "rows", "smallest … largest"], body)


def _of_the_loss(last: pd.DataFrame) -> str:
    """Write how the ends go with the class loss, over all rows and within those that all have."""
    body = [["all rows", f"{len(last)}", f"{_rank(last.lambda_ratio, last):.2f}", *[""] * 6]]
    for name, own in last.groupby("name"):
        if own.arm.nunique() < len(ARMS) - 1:  # all but SGD of 204 epochs
            continue
        ends = own.lambda_ratio, own.lambda_max, own.lambda_min.abs()
        falls = [
            (one.loss - other.loss) * (one.lambda_ratio - other.lambda_ratio) < 0.0
            for _, of in own.groupby("arm")
            for (_, one), (_, other) in itertools.combinations(of.iterrows(), 2)
        ]
        late = own[own.arm == LATE]
        by_loss = _log_loss(own).corr(np.log(own.lambda_ratio)) ** 2
        body.append([
            title(str(name)), f"{len(own)}", *(f"{_rank(end, own):.2f}" for end in ends),
            f"{by_loss:.2f}", f"{_by_method(own):.2f}", f"{sum(falls)} of {len(falls)}",
            spread(late.lambda_ratio / _on_the_line(own, late)),
        ])  # fmt: skip
    header = ["row", "n", "rank, λ_ratio", "λ_max", "|λ_min|", "variance by L", "by method",
              "pairs of seeds", "SGD, then ImbSAM / line"]  # fmt: skip
    return table(header, body)


def _on_the_line(rows: pd.DataFrame, late: pd.DataFrame) -> np.ndarray:
    """λ_ratio that some rows have on the line of log λ_ratio over log L of the five methods."""
    five = rows[rows.arm.isin(METHODS)]
    line = np.polyfit(_log_loss(five), np.log(five.lambda_ratio), 1)
    return np.exp(np.polyval(line, _log_loss(late)))


def _by_method(rows: pd.DataFrame) -> float:
    values = np.log(rows.lambda_ratio)
    rest = values - values.groupby(rows.arm).transform("mean")
    return 1.0 - float((rest**2).sum() / ((values - values.mean()) ** 2).sum())


def _log_loss(rows: pd.DataFrame) -> pd.Series:
    return np.log(rows.loss)


def _rank(values: pd.Series, rows: pd.DataFrame) -> float:
    return float(values.corr(rows.loss, method="spearman"))


def spread(values: pd.Series, digits: int = 2) -> str:
    """Write a range."""
    return f"{values.min():.{digits}f} … {values.max():.{digits}f}" if len(values) else ""
