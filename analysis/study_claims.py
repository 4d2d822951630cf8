"""The hypotheses between methods and the paper's claims, held to the runs seed by seed."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from contrasts import LEVEL
from scipy import stats
from study_figures import ARMS, SWITCH, at_the_end, title

Key = int | tuple[int, int]
Values = Mapping[str, Mapping[Key, float]]
"""An outcome by arm and by seed, or by seed and epoch."""

SHOTS: Final = ("avg", "many", "medium", "few")
SAM_METHODS: Final = ("sam", "imbsam", "sam-ext", "sse-sam")
METHODS: Final = ("sgd", *SAM_METHODS)
HIGHEST: Final = tuple(("sse-sam", other) for other in METHODS[:-1])


@dataclass(frozen=True)
class Order:
    """A claim that methods stand in an order.

    Attributes:
        key: of docs/study.md.
        outcome: whose values are compared.
        statement: the claim in words.
        pairs: the greater method first, of each pair.
    """

    key: str
    outcome: str
    statement: str
    pairs: tuple[tuple[str, str], ...]

    @property
    def arms(self) -> list[str]:
        """Every method that is compared, in the order of the tables."""
        compared = {arm for pair in self.pairs for arm in pair}
        return [arm for arm in ARMS if arm in compared]


def chain(*arms: str) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a descending order."""
    return tuple(itertools.pairwise(arms))


ORDERS: Final = (
    Order("P2", "λ_ratio, all", "SSE-SAM's is the highest", HIGHEST),
    Order("P2", "λ_ratio, class 0", "SSE-SAM's is the highest", HIGHEST),
    Order("P2", "λ_ratio, class 0", "SAM > ImbSAM", chain("sam", "imbsam")),
    Order("P3", "λ_ratio, class 9", "ImbSAM > SSE-SAM > SAM (ext.)",
          chain("imbsam", "sse-sam", "sam-ext")),
    Order("P3", "λ_ratio, class 9", "ImbSAM > SGD and SAM",
          (("imbsam", "sgd"), ("imbsam", "sam"))),
    Order("P3", "λ_ratio, class 9, test split", "ImbSAM > SSE-SAM > SAM (ext.)",
          chain("imbsam", "sse-sam", "sam-ext")),
    Order("P3", "λ_ratio, class 9, test split", "ImbSAM > SGD and SAM",
          (("imbsam", "sgd"), ("imbsam", "sam"))),
    Order("P4", "many", "SAM > SSE-SAM > ImbSAM", chain("sam", "sse-sam", "imbsam")),
    Order("P4", "medium", "SSE-SAM > ImbSAM > SAM", chain("sse-sam", "imbsam", "sam")),
    Order("P4", "few", "SSE-SAM > ImbSAM > SAM", chain("sse-sam", "imbsam", "sam")),
    Order("P5", "medium after the switch", "SSE-SAM > ImbSAM", chain("sse-sam", "imbsam")),
    Order("P5", "few after the switch", "SSE-SAM > ImbSAM", chain("sse-sam", "imbsam")),
    Order("P5", "many after the switch", "SAM > SSE-SAM > ImbSAM",
          chain("sam", "sse-sam", "imbsam")),
)  # fmt: skip
"""The paper's claims between methods (docs/study.md)."""


def claim_lines(rows: pd.DataFrame, shots: pd.DataFrame, losses: pd.DataFrame) -> list[list[str]]:
    """Hold everything that compares methods to the runs.

    Args:
        rows: measured ones.
        shots: accuracies by arm, seed and evaluated epoch, in per cent.
        losses: logged ones of head and tail, of all runs.

    Returns:
        Key, statement, where it holds, and values, a line a statement of which something is known.
    """
    values = _outcomes(rows, shots)
    few = values["few"]
    return [*_h3(values), *_h5(few), *_orders(values), *_p6(losses), *_late_against_sgd(few)]


def by_arm(rows: pd.DataFrame, values: pd.Series) -> dict[str, dict[int, float]]:
    """Sort values by arm and seed."""
    found: dict[str, dict[int, float]] = {}
    for arm, seed, value in zip(rows.arm, rows.seed, values, strict=True):
        found.setdefault(arm, {})[int(seed)] = float(value)
    return found


def of_last_epochs(shots: pd.DataFrame) -> pd.DataFrame:
    """Choose the accuracies that a run ended with."""
    return shots[shots.epoch == shots.groupby(["arm", "seed"]).epoch.transform("max")]


def _outcomes(rows: pd.DataFrame, shots: pd.DataFrame) -> dict[str, Values]:
    """Collect what is compared: λ_ratio of each row, accuracy at the end and after the switch."""
    late, end = shots[shots.epoch >= SWITCH], of_last_epochs(shots)
    found: dict[str, Values] = {}
    for shot in SHOTS:
        found[shot] = by_arm(end, end[shot])
        found[f"{shot} after the switch"] = {
            arm: dict(zip(zip(own.seed, own.epoch, strict=True), own[shot], strict=True))
            for arm, own in late.groupby("arm")
        }
    for split, ending in (("train", ""), ("test", ", test split")):
        for name, own in at_the_end(rows, split=split).groupby("name"):
            found[f"λ_ratio, {title(str(name))}{ending}"] = by_arm(own, own.lambda_ratio)
    return found


def _orders(values: Mapping[str, Values]) -> list[list[str]]:
    """Count the seeds (and epochs) in which an order holds, and give the means."""
    lines = []
    for order in ORDERS:
        outcome = values.get(order.outcome, {})
        common = _common(outcome, order.arms)
        if common:
            held = sum(
                all(outcome[one][key] > outcome[two][key] for one, two in order.pairs)
                for key in common
            )
            mean = _geometric_mean if order.outcome.startswith("λ_ratio") else _mean
            means = [f"{ARMS[arm]} {mean(outcome[arm], common):.1f}" for arm in order.arms]
            statement = f"{order.outcome}: {order.statement}"
            lines.append([order.key, statement, f"{held} of {len(common)}", ", ".join(means)])
    return lines


def _h3(values: Mapping[str, Values]) -> list[list[str]]:
    """Hold each SAM method's λ_ratio and few-shot accuracy to SGD's."""
    lines = []
    rows, few = [values.get(f"λ_ratio, {name}", {}) for name in ("tail", "class 9")], values["few"]
    for method in SAM_METHODS:
        both = ["sgd", method]
        common = _common(few, both) & _common(rows[0], both) & _common(rows[1], both)
        if not common:
            continue
        tail, nine = (
            _geometric_mean(row[method], common) / _geometric_mean(row["sgd"], common)
            for row in rows
        )
        gain = _mean(few[method], common) - _mean(few["sgd"], common)
        holds = "yes" if max(tail, nine) <= 1.0 and gain > 0 else "no"
        statement = f"{ARMS[method]}: λ_ratio of tail and class 9 not above SGD's, few-shot above"
        found = f"× {tail:.2f}, × {nine:.2f}, {gain:+.1f} points"
        lines.append(["H3", statement, holds, found])
    return lines


def _h5(few: Values) -> list[list[str]]:
    """Compare few-shot accuracy after SGD's first stage and after that of SAM (ext.)."""
    common = _common(few, ["sgd-then-imbsam", "sse-sam"])
    if not common:
        return []
    gaps = [few["sgd-then-imbsam"][seed] - few["sse-sam"][seed] for seed in sorted(common)]
    gap = float(np.mean(gaps))
    statement = "few: SGD, then ImbSAM is within one point of SSE-SAM"
    by_seed = ", ".join(f"{one:+.1f}" for one in gaps)
    found = f"{gap:+.1f} points (by seed {by_seed})"
    return [["H5", statement, "yes" if abs(gap) <= 1.0 else "no", found]]


def _late_against_sgd(few: Values) -> list[list[str]]:
    """Compare SGD, then ImbSAM with SGD; no contrast that was fixed, so without a p-value."""
    one, two = (list(few.get(arm, {}).values()) for arm in ("sgd-then-imbsam", "sgd"))
    if min(len(one), len(two)) < 2:
        return []
    bounds = stats.ttest_ind(one, two, equal_var=False).confidence_interval(LEVEL)
    gap = float(np.mean(one) - np.mean(two))
    statement = "few: SGD, then ImbSAM less SGD (looked at afterwards)"
    return [["", statement, "", f"{gap:+.1f} points [{bounds.low:.1f}, {bounds.high:.1f}]"]]


def _p6(losses: pd.DataFrame) -> list[list[str]]:
    """Hold the logged losses of head and tail to Eq. 8, every run and logged epoch."""
    sums, means = losses.loss_head_sum / losses.loss_tail_sum, losses.loss_head / losses.loss_tail
    return [
        ["P6", statement, f"{held.sum()} of {len(held)}", f"{ratio.min():.2f} … {ratio.max():.2f}"]
        for statement, ratio, held in (
            ("sum of losses, head / tail: above 1", sums, sums > 1.0),
            ("mean loss, head / tail: below 1", means, means < 1.0),
        )
    ]


def _common(outcome: Values, arms: list[str]) -> set[Key]:
    """Return the seeds that every method has."""
    return set.intersection(*(set(outcome.get(arm, {})) for arm in arms))


def _mean(values: Mapping[Key, float], keys: set[Key]) -> float:
    return float(np.mean([values[key] for key in keys]))


def _geometric_mean(values: Mapping[Key, float], keys: set[Key]) -> float:
    return float(np.exp(np.mean([np.log(values[key]) for key in keys])))
