"""Which spectrum rows a figure, a table or a claim speaks about.

A run folder may hold several checkpoints, splits, criteria and Lanczos start vectors. Everything
that compares runs compares one split and one criterion, the last checkpoint measured of each run,
and keeps two kinds of seed apart: a *training seed* makes another network, a *start* is only
another start vector for the same network. The selection is made once and handed to everything that
shows it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from saddlescope.errors import DataError
from saddlescope.reporting.loading import Problem, Run, load_runs, problem_of
from saddlescope.reporting.text import class_order, shorten, shorten_middle
from saddlescope.runs import METHODS, WHOLE_HESSIAN, RunFolder, matrix_words
from saddlescope.wording import percent

WORST_FIRST = ("not-converged", "unresolved", "positive", "negative-curvature")
"""Verdicts, so that several starts of one row get the most cautious of theirs."""


@dataclass(frozen=True)
class Ratio:
    """λ_ratio of one run and one row, over all its starts.

    The interval is the hull of the starts' intervals: it holds the truth if any of them does, so
    its confidence is at least that of one. The value is their median.
    """

    value: float
    lower: float
    upper: float
    verdict: str
    gradient_norm: float
    n: int
    confidence: float
    starts: int

    @property
    def comparable(self) -> bool:
        """Tell whether its bounds may be set against another's.

        A ratio with λ_min > 0 measures something else: there is no descent direction to leave by.
        """
        return self.verdict != "positive" and math.isfinite(self.lower)

    def above(self, other: "Ratio") -> bool:
        """Tell whether this interval lies wholly above the other."""
        return self.comparable and other.comparable and self.lower > other.upper


@dataclass(frozen=True)
class Panel:
    """One of Fig. 4's three panels.

    Attributes:
        kind: "group" or "class".
        name: of the row.
        title: what it is of.
        stands_in: whether another class than the paper's is shown, since that was not measured.
    """

    kind: str
    name: str
    title: str
    stands_in: bool = False


@dataclass(frozen=True, eq=False)
class Selection:
    """Runs, and those of their spectrum rows that are compared.

    Attributes:
        runs: Every run, measured or not, in the paper's order of methods, then by seed.
        labels: A short name for each run, unique among them.
        rows: The spectrum rows, with `index` (into `runs`) and `label` added.
        split: Their split, or an empty string when there are none.
        criterion: Their criterion.
        matrix: Which matrix, in words.
        problems: What could not be read.
    """

    runs: tuple[Run, ...]
    labels: tuple[str, ...]
    rows: pd.DataFrame
    split: str
    criterion: str
    matrix: str
    problems: tuple[Problem, ...] = ()

    @cached_property
    def measured(self) -> tuple[int, ...]:
        """The indices of the runs that have rows."""
        return tuple(sorted(set(self.rows["index"])))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of those, in order."""
        return tuple(dict.fromkeys(self.runs[index].method for index in self.measured))

    @property
    def trained(self) -> tuple[Run, ...]:
        """The runs that have metrics."""
        return tuple(run for run in self.runs if len(run.metrics))

    @property
    def of_the_loss(self) -> bool:
        """Say whether the matrix bends as the loss does: no part of the Hessian alone."""
        return "gauss-newton" not in self.matrix

    @property
    def of_methods(self) -> bool:
        """Say whether it is known how some run was trained; of loose tables it is not."""
        return any(run.path is not None for run in self.runs)

    @cached_property
    def panels(self) -> tuple[Panel, ...]:
        """All samples, the most frequent class and a tail class, as far as they were measured."""
        panels = [Panel("group", "all", "All samples")] if "all" in self.names("group") else []
        classes = [name for name in self.names("class") if name.isdecimal()]
        if classes:
            # By name throughout: "007" and "٣" are decimal, and no str(int(name)).
            sizes = self.class_sizes
            head = max(classes, key=lambda name: sizes.get(name, 0))
            tail = min(reversed(classes), key=lambda name: sizes.get(name, 0))
            # The paper shows class 80 of 100, which is not the smallest.
            tail = "80" if len(sizes) == 100 and "80" in classes else tail
            panels.append(self._panel(head, "most frequent", max(sizes.values(), default=0)))
            if tail != head:
                panels.append(self._panel(tail, "rarest", min(sizes.values(), default=0)))
        return tuple(panels)

    def _panel(self, shown: str, word: str, size: int) -> Panel:
        """The panel of a class that is the most frequent or the rarest, or stands for it."""
        of_tail = {str(c) for run in self.runs for c in run.group("tail")}
        if self.class_sizes.get(shown) == size:
            return Panel("class", shown, f"Class {shown}, {word}")
        if word == "rarest" and (shown in of_tail or not of_tail):
            return Panel("class", shown, f"Class {shown}, a tail class")
        return Panel("class", shown, f"Class {shown}, {word} of those measured", stands_in=True)

    @cached_property
    def class_sizes(self) -> dict[str, int]:
        """Training samples of each class; where no run tells them, the samples measured."""
        for run in self.runs:
            if run.counts:
                return {str(c): count for c, count in enumerate(run.counts)}
        rows = self.rows[self.rows["kind"] == "class"]
        pairs = zip(rows["name"], rows["n"], strict=True)
        return {name: int(n) for name, n in pairs if name.isdecimal() and n == n}

    def names(self, kind: str) -> list[str]:
        """Name the rows of a kind that were measured, classes by number."""
        return list(self._names.get(kind, ()))

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        kinds = self.rows.groupby("kind", sort=False)["name"].unique()
        return {str(kind): sorted(names, key=class_order) for kind, names in kinds.items()}

    def ratios(self, kind: str, name: str) -> dict[int, Ratio]:
        """Return λ_ratio of one class or group by the index of the run, where it was measured."""
        return dict(sorted(self._ratios.get((kind, name), {}).items()))

    @cached_property
    def class_ratios(self) -> dict[int, list[Ratio]]:
        """Those of every class, by the index of the run."""
        found: dict[int, list[Ratio]] = {index: [] for index in self.measured}
        for name in self.names("class"):
            for index, ratio in self.ratios("class", name).items():
                found[index].append(ratio)
        return found

    @cached_property
    def _ratios(self) -> dict[tuple[str, str], dict[int, Ratio]]:
        """Those of every run and row, in one pass: a large study has thousands of them."""
        columns = [
            "index", "kind", "name", "lambda_ratio", "lambda_ratio_lower", "lambda_ratio_upper",
            "verdict", "gradient_norm", "n", "confidence",
        ]  # fmt: skip
        if self.rows.empty:
            return {}
        starts: dict[tuple[int, str, str], list[tuple[Any, ...]]] = {}
        for index, kind, name, *values in self.rows[columns].itertuples(index=False, name=None):
            starts.setdefault((int(index), kind, name), []).append(tuple(values))
        found: dict[tuple[str, str], dict[int, Ratio]] = {}
        for (index, kind, name), rows in starts.items():
            found.setdefault((kind, name), {})[index] = _over_starts(rows)
        return found

    @cached_property
    def placing(self) -> tuple[pd.DataFrame, list[Problem]]:
        """Place the measured runs in the phase diagram, and say which could not be."""
        from saddlescope.theory import place

        left_out: list[Problem] = []
        frames = []
        for path in (run.path for run in self.runs if run.path and len(run.spectra)):
            broken: list[DataError] = []
            frames.append(place([RunFolder(path)], skip=broken.append))
            left_out += [problem_of(path, error) for error in broken]
        filled = [frame for frame in frames if len(frame)]
        return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(), left_out

    def scope(self) -> str:
        """Say in one line: split, n, confidence, training seeds, starts. Figures have it below."""
        if self.rows.empty:
            return "no spectrum was measured"
        everything = self.rows[(self.rows["kind"] == "group") & (self.rows["name"] == "all")]
        parts = [f"{shorten(self.split, 20)} split"]
        if len(everything) and everything["n"].notna().any():
            parts.append(f"n = {spread(everything['n'].dropna().astype(int))}")
        parts.append(f"loss {shorten(self.criterion, 24)}")
        if self.matrix != WHOLE_HESSIAN:
            parts.append(shorten(self.matrix, 40))
        level = self.rows["confidence"].min()
        if level == level:
            parts.append(f"bounds at {percent(level)}")
        parts.append(seeds_text(self.runs[i] for i in sorted(set(self.rows["index"]))))
        starts = self.rows["seed"].dropna().nunique()
        if starts > 1:
            parts.append(f"{starts} Lanczos starts")
        return " · ".join(parts)


def select_runs(paths: Iterable[str | Path], *, split: str = "train") -> Selection:
    """Read runs, and choose the rows of theirs to compare.

    Args:
        paths: Run folders, folders that contain run folders, and spectrum tables.
        split: The split wanted; when no run has it, the one most rows have is taken.

    Returns:
        The selection; what could not be read is among its problems.
    """
    return select(*load_runs(paths), split=split)


def select(
    runs: Iterable[Run], problems: Iterable[Problem] = (), *, split: str = "train"
) -> Selection:
    """Choose the rows of runs that were read to compare; see `select_runs`."""
    ordered = sorted(runs, key=lambda run: (_rank(run.method), run.method, _seed(run), run.name))
    labels = _labels(ordered)
    frames = [
        run.spectra.assign(index=index, label=label, method=run.method, train_seed=run.seed)
        for index, (run, label) in enumerate(zip(ordered, labels, strict=True))
        if len(run.spectra)
    ]
    if not frames:
        columns = ["kind", "name", "index", "label", "seed", "n", "verdict", "method", "epoch"]
        empty = pd.DataFrame(columns=columns)
        return Selection(tuple(ordered), labels, empty, "", "", "", tuple(problems))
    rows = pd.concat([frame.astype(object) for frame in frames], ignore_index=True)
    rows = rows.infer_objects()
    if not (rows["split"] == split).any():
        split = _commonest(rows["split"])
    rows = rows[rows["split"] == split]
    criteria = rows["criterion"]
    criterion = "ce" if (criteria == "ce").any() else _commonest(criteria)
    rows = rows[rows["criterion"] == criterion]
    # The Hessian of all parameters where there is one; two matrices are never set side by side.
    matrices = rows[["operator", "parameters", "weight_decay"]].apply(matrix_words, axis=1)
    matrix = WHOLE_HESSIAN if (matrices == WHOLE_HESSIAN).any() else _commonest(matrices)
    rows = rows[matrices == matrix]
    epoch = pd.to_numeric(rows["epoch"], errors="coerce").fillna(-1)
    rows = rows[epoch == epoch.groupby(rows["index"]).transform("max")]
    # Several files may hold the same epoch (last.pt, epoch-059.pt); the last one read stands.
    rows = rows.drop_duplicates(["index", "kind", "name", "seed"], keep="last")
    return Selection(
        tuple(ordered), labels, rows.reset_index(drop=True), split, criterion, matrix,
        tuple(problems),
    )  # fmt: skip


def _over_starts(rows: Sequence[tuple[Any, ...]]) -> Ratio:
    """λ_ratio over several starts; see `Ratio` for what NaN means."""
    value, lower, upper, verdicts, gradient, n, confidence = zip(*rows, strict=True)
    known = set(verdicts)
    return Ratio(
        value=_median(value),
        lower=math.nan if any(math.isnan(x) for x in lower) else float(min(lower)),
        upper=max(math.inf if math.isnan(x) else float(x) for x in upper),
        verdict=next((word for word in WORST_FIRST if word in known), min(known)),
        gradient_norm=_median(gradient),
        n=int(max(0.0 if math.isnan(x) else x for x in n)),
        confidence=min((float(x) for x in confidence if not math.isnan(x)), default=math.nan),
        starts=len(rows),
    )


def _median(values: Iterable[float]) -> float:
    """Of what is known; NaN where nothing is."""
    known = [float(value) for value in values if not math.isnan(value)]
    return float(median(known)) if known else math.nan


def spread(values: Iterable[int]) -> str:
    """Write `438` or `430–438`; `—` for nothing."""
    found = sorted(set(values))
    if not found:
        return "—"
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


def seeds_text(runs: Iterable[Run]) -> str:
    """Write `training seed 0` or `training seeds 0, 1, 2`."""
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    if not seeds:
        return "training seed not stated"
    return f"training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _labels(runs: Sequence[Run]) -> tuple[str, ...]:
    methods = Counter(run.method for run in runs)
    seeds = Counter((run.method, run.seed) for run in runs)
    labels = []
    for run in runs:
        label = shorten_middle(run.method_label, 28)
        if methods[run.method] > 1:
            alone = run.seed is not None and seeds[run.method, run.seed] == 1
            label += f" seed {run.seed}" if alone else f": {shorten_middle(run.name, 24)}"
        labels.append(label)
    return tuple(labels)


def _commonest(values: pd.Series) -> str:
    counts = Counter(values)
    return str(min(counts, key=lambda value: (-counts[value], value)))


def _rank(method: str) -> int:
    return list(METHODS).index(method) if method in METHODS else len(METHODS)


def _seed(run: Run) -> float:
    return math.inf if run.seed is None else run.seed
