"""What the kept runs of the study say: tables, contrasts and figures, from analysis/study alone.

    python analysis/study_results.py

Writes results.csv and contrasts.csv into analysis/study, docs/images/study-*.svg, and the part of
docs/study.md between two marks. Runs that have not ended are simply not among them.
"""

import re
from pathlib import Path
from typing import Final

import pandas as pd
from contrasts import Contrast, contrasts
from study_claims import SHOTS, by_arm, claim_lines, of_last_epochs
from study_figures import ARMS, FIGURES, at_the_end, escape_figure, in_order, title
from study_verdicts import table, verdict_text

from saddlescope.reporting import Run, house_style, load_runs, phase_figure, save_figure
from saddlescope.runs import SPECTRUM_KEY, RunFolder, read_rows, write_text
from saddlescope.theory import place

KEPT: Final = Path(__file__).parent / "study"
PAGE: Final = Path(__file__).parent.parent / "docs" / "study.md"
IMAGES: Final = PAGE.parent / "images"
MARKS: Final = ("<!-- written by analysis/study_results.py -->", "<!-- end -->")
RHO: Final = 0.05
DECIDING: Final = ("λ_ratio", "few-shot")
"""How the outcomes begin that decide; the others explain."""

FIRST: Final = ("arm", "seed", "name", "n", "operator", "split", "epoch", "checkpoint")
LEFT_OUT: Final = ("run", "method", "digest", "device", "settings", "kind", "parameters",
                   "slice_radii", "slice_max", "slice_min")  # fmt: skip


def arm_and_seed(name: str) -> tuple[str, int]:
    """Read a run's name."""
    found = re.fullmatch(r"study-(.+)-seed(\d+)", name)
    if found is None or found[1] not in ARMS:
        raise SystemExit(f"analysis/study/{name}: not a run of the study")
    return found[1], int(found[2])


def gather(runs: list[Run]) -> pd.DataFrame:
    """Put every measured row of the runs into one table, the split of a row beside it."""
    tables = []
    for run in runs:
        arm, seed = arm_and_seed(run.name)
        for path in sorted((KEPT / run.name / "spectrum").glob("*.csv")):
            rows = pd.read_csv(path, dtype={"name": str, "checkpoint": str})
            rows = rows.assign(arm=arm, seed=seed)
            for view, columns in (("split", split_columns), ("slices", slice_columns)):
                kept = path.with_suffix(".views") / f"{view}.json"
                if kept.is_file():
                    rows = rows.merge(columns(kept), on=["name", "operator"], how="left")
            tables.append(rows)
    found = pd.concat(tables, ignore_index=True)
    # Of what anybody measured in a kept folder, only the study's own matrices are compared.
    found = _narrowest(found[(found.parameters == "*") & (found.weight_decay == 0)])
    found["step"] = RHO * found["lambda_min"].abs() / found["gradient_norm"]
    found["gradient_loss"] = found["gradient_norm"] ** 2 / found["loss"]
    return found


def _narrowest(rows: pd.DataFrame) -> pd.DataFrame:
    """Choose the narrowest interval of a row that was measured more than once (`--certify`)."""
    width = (rows["lambda_ratio_upper"] / rows["lambda_ratio_lower"]).fillna(float("inf"))
    keys = [rows[key] for key in ("arm", *SPECTRUM_KEY) if key != "settings"]
    return rows.loc[width.groupby(keys).idxmin().sort_values()]


def by_direction(path: Path) -> pd.DataFrame:
    """Lay the records of a row's directions side by side."""
    records = pd.read_json(path, dtype={"name": str})
    return records.pivot(index=["name", "operator"], columns="direction")


def slice_columns(path: Path) -> pd.DataFrame:
    """Read the losses along v_max and v_min of each row, a list in a cell."""
    wide = by_direction(path)
    columns = {"slice_radii": wide["radii"]["v_min"], "slice_max": wide["losses"]["v_max"],
               "slice_min": wide["losses"]["v_min"]}  # fmt: skip
    return pd.DataFrame(columns).reset_index()


def split_columns(path: Path) -> pd.DataFrame:
    """Read what is known of each row along its three directions."""
    wide = by_direction(path)
    columns = {
        "min_gauss_newton": wide["gauss_newton"]["v_min"],
        "min_remainder": wide["remainder"]["v_min"],
        "max_gauss_newton": wide["gauss_newton"]["v_max"],
        "cos_gradient_max": wide["cos_gradient"]["v_max"],
        "gradient_below": wide["gradient_below"]["v_min"],
        "curvature_005": wide["curvatures"]["v_min"].str[0],
        "curvature_010": wide["curvatures"]["v_min"].str[1],
        "min_ahead": wide["losses_ahead"]["v_min"].str[0],
        "min_behind": wide["losses_behind"]["v_min"].str[0],
        # Ahead of the gradient is the way down: the direction drawn is −∇L.
        "descent": wide["losses_ahead"]["gradient"].str[0],
    }
    return pd.DataFrame(columns).reset_index()


def accuracies(runs: list[Run]) -> pd.DataFrame:
    """Return test accuracies in per cent, a row a run and evaluated epoch."""
    rows = []
    for run in runs:
        arm, seed = arm_and_seed(run.name)
        for _, epoch in run.metrics.dropna(subset=["acc_few"]).iterrows():
            shots = {shot: 100 * float(epoch[f"acc_{shot}"]) for shot in SHOTS}
            rows.append({"arm": arm, "seed": seed, "epoch": int(epoch["epoch"])} | shots)
    return pd.DataFrame(rows)


def logged_losses(runs: list[Run]) -> pd.DataFrame:
    """Return the losses of head and tail along all runs; what two runs share counts once."""
    files = [RunFolder(KEPT / run.name).losses_file for run in runs]
    return pd.DataFrame([row for file in files for row in read_rows(file)]).drop_duplicates()


def outcomes(rows: pd.DataFrame, shots: pd.DataFrame) -> dict[str, list[Contrast]]:
    """Compare the methods of each outcome, the three that decide and those that explain."""
    found = {}
    last = at_the_end(rows)
    for name in ("tail", "9"):
        row = last[last.name == name]
        low = row.lambda_min.abs()
        values = {"λ_ratio": row.lambda_ratio, "λ_max": row.lambda_max, "|λ_min|": low,
                  "λ_max/L": row.lambda_max / row.loss, "|λ_min|/L": low / row.loss}  # fmt: skip
        for what, value in values.items():
            found[f"{what}, {title(name)}"] = contrasts(by_arm(row, value))
    end = of_last_epochs(shots)
    found["few-shot accuracy"] = contrasts(by_arm(end, end.few))
    return found


def accuracy_text(shots: pd.DataFrame) -> str:
    """Write test accuracies: means over seeds, and every seed's few-shot accuracy."""
    body, end = [], of_last_epochs(shots)
    for arm in in_order(end.arm):
        own = end[end.arm == arm].sort_values("seed")
        means = [f"{own[shot].mean():.1f}" for shot in SHOTS]
        seeds = [f"{few:.1f} ({seed})" for few, seed in zip(own.few, own.seed, strict=True)]
        body.append([ARMS[arm], *means, ", ".join(seeds)])
    header = ["test accuracy (%), last epoch", "all", "many", "medium", "few", "few (seed)"]
    return "### Accuracy\n\n" + table(header, body)


def spectrum_text(rows: pd.DataFrame) -> str:
    """Write the ends of each row, every seed, of both splits, and what more was measured."""
    last, test = at_the_end(rows), at_the_end(rows, split="test")
    others = [at_the_end(rows, name) for name in ("hessian-minus-gauss-newton", "norm-weighted")]
    parts = []
    for _, row in last.iterrows():
        split = row[["min_gauss_newton", "min_remainder", "curvature_005", "curvature_010"]]
        numbers = ["" if pd.isna(value) else f"{value:.1f}" for value in split]
        numbers += [ratio_of_same(other, row) for other in others]
        if any(numbers):
            parts.append([title(row["name"]), f"{ARMS[row.arm]}, {row.seed}", *numbers])
    more = ["row", "method, seed", "v_minᵀGv_min", "v_minᵀRv_min", "curvature at 0.05", "at 0.10",
            "λ_ratio of R", "norm-weighted"]  # fmt: skip
    blocks = [
        f"### Spectra at the last epoch, training split, intervals at 99.9 %\n\n{ends_table(last)}",
        "What more was measured of a row: along v_min, and λ_ratio of the remainder R and of the "
        f"norm-weighted Hessian:\n\n{table(more, parts)}",
    ]
    if len(test):
        blocks.append(
            f"The same ends on the test split, all images of a class:\n\n{ends_table(test)}"
        )
    return "\n\n".join(blocks)


def ends_table(last: pd.DataFrame) -> str:
    """Write both ends, gradient and loss of each row."""
    body = [
        [
            title(row["name"]), f"{ARMS[row.arm]}, {row.seed}", f"{row.lambda_max:.0f}",
            f"{row.lambda_min:.1f} {interval(row, 'lambda_min', 1)}",
            f"**{row.lambda_ratio:.1f}** {interval(row, 'lambda_ratio', 1)}",
            f"{row.gradient_norm:.1f}", f"{row.loss:.3f}", f"{row.gradient_loss:.0f}",
        ]
        for _, row in last.iterrows()
    ]  # fmt: skip
    ends = ["row", "method, seed", "λ_max", "λ_min", "λ_ratio", "‖∇L‖", "L", "‖∇L‖²/L"]
    return table(ends, body)


def interval(row: pd.Series, column: str, digits: int) -> str:
    """Write the bounds of a column."""
    low, high = row[f"{column}_lower"], row[f"{column}_upper"]
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def ratio_of_same(rows: pd.DataFrame, row: pd.Series) -> str:
    """Write λ_ratio of another matrix or split of the same network and samples."""
    same = rows[(rows["name"] == row["name"]) & (rows.arm == row.arm) & (rows.seed == row.seed)]
    texts = [
        f"{one.lambda_ratio:.2f} {interval(one, 'lambda_ratio', 2)}" for _, one in same.iterrows()
    ]
    return "".join(texts)


def contrast_text(rows: pd.DataFrame, shots: pd.DataFrame) -> str:
    """Write the contrasts of the outcomes that decide, and the ratios of those that explain."""
    body, explained = [], pd.DataFrame()
    for outcome, found in outcomes(rows, shots).items():
        for one in found:
            contrast, ratio = f"{ARMS[one.method]} / {ARMS[one.other]}", f"{one.ratio:.2f}"
            if not outcome.startswith(DECIDING):
                explained.loc[contrast, outcome] = ratio
                continue
            line = [outcome, contrast, f"{one.seeds}", ratio]
            if one.seeds > 1:
                line += [f"[{one.lower:.2f}, {one.upper:.2f}]", f"{one.p:.3f} ({one.least_p:.3f})",
                         f"{one.p_holm:.3f}"]  # fmt: skip
            body.append(line + [""] * (7 - len(line)))
    header = ["outcome", "contrast", "seeds", "ratio of geometric means", "95 %",
              "p (least possible)", "p, Holm"]  # fmt: skip
    if not body:
        return ""
    ratios = [[contrast, *row] for contrast, row in explained.fillna("").iterrows()]
    return (
        f"### Contrasts\n\n{table(header, body, words=2)}\n\n"
        "Ratios of geometric means of what explains them (intervals in `contrasts.csv`):\n\n"
        + table(["contrast", *explained.columns], ratios)
    )


def claims_text(rows: pd.DataFrame, shots: pd.DataFrame, losses: pd.DataFrame) -> str:
    """Write what compares methods: H3, H5 and the paper's claims."""
    header = ["", "statement", "holds in", "means over seeds"]
    body = claim_lines(rows, shots, losses)
    return "### What was written down of methods, and the paper's claims\n\n" + table(
        header, body, words=2
    )


def written(rows: pd.DataFrame, shots: pd.DataFrame, losses: pd.DataFrame) -> str:
    """Return what stands between the marks of the page."""
    blocks = accuracy_text(shots), spectrum_text(rows), verdict_text(rows)
    claims = claims_text(rows, shots, losses)
    return "\n\n".join((*blocks, claims, contrast_text(rows, shots))).strip()


def main() -> None:
    """Write everything."""
    runs, problems = load_runs([KEPT])
    if problems:
        raise SystemExit("\n".join(f"{problem.name}: {problem.reason}" for problem in problems))
    rows, shots = gather(runs), accuracies(runs)
    columns = [column for column in rows if column not in (*FIRST, *LEFT_OUT)]
    results = rows[[*FIRST, *columns]].to_csv(index=False, float_format="%.6g")
    write_text(KEPT / "results.csv", results)
    compared = [
        {"outcome": outcome} | vars(one)
        for outcome, found in outcomes(rows, shots).items()
        for one in found
    ]
    if compared:
        write_text(KEPT / "contrasts.csv", pd.DataFrame(compared).to_csv(index=False))
    with house_style():
        for name, draw in FIGURES.items():
            figure = draw(rows)
            if figure is not None:
                save_figure(figure, IMAGES, f"study-{name}", formats=("svg",))
        placed = place([RunFolder(KEPT / run.name) for run in runs])
        if not placed.empty:
            save_figure(phase_figure(placed), IMAGES, "study-phase", formats=("svg",))
        steps = [pd.read_csv(path) for path in sorted(KEPT.glob("*/escape-*.csv"))]
        if steps:
            save_figure(escape_figure(pd.concat(steps)), IMAGES, "study-escape", formats=("svg",))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page = f"{before}{MARKS[0]}\n\n{written(rows, shots, logged_losses(runs))}\n\n{MARKS[1]}{after}"
    write_text(PAGE, page)
    print(f"{len(runs)} runs: {PAGE.name}, results.csv, contrasts.csv, figures")


if __name__ == "__main__":
    main()
