"""The paper's ordering claims, each held against the runs: supported, contradicted, undecided.

Fig. 3 and 4, Table 3, footnote 2, Eq. 8 and the small-loss assumption of the paper. Claims between
methods follow the rule of `judging`; the last two speak about one training at a time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import pandas as pd

from saddlescope.reporting.judging import (
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    Claim,
    Networks,
    Ordering,
    by_method,
    judge,
)
from saddlescope.reporting.loading import Run
from saddlescope.reporting.selection import Selection, spread
from saddlescope.reporting.text import method_label, number, plural, shorten
from saddlescope.runs import WHOLE_HESSIAN
from saddlescope.wording import percent

MUCH: Final = 10.0
"""What "much larger" in Eq. 8 is taken to mean, as a factor."""

_HIGHEST = [("sse-sam", other) for other in ("sgd", "sam", "imbsam", "sam-ext")]
_RATIOS = (
    ("Fig. 4a", "all", "λ_ratio over all samples: SSE-SAM highest.", _HIGHEST),
    ("Fig. 4b", "head", "λ_ratio on the most frequent class: SSE-SAM highest.", _HIGHEST),
    ("Fig. 4b", "head", "λ_ratio on the most frequent class: SAM > ImbSAM.", [("sam", "imbsam")]),
    ("Fig. 4c", "tail", "λ_ratio on {tail}: ImbSAM > SSE-SAM > SAM (ext.).",
     [("imbsam", "sse-sam"), ("sse-sam", "sam-ext")]),
    ("Fig. 4c", "tail", "λ_ratio on {tail}: ImbSAM > SGD and SAM.",
     [("imbsam", "sgd"), ("imbsam", "sam")]),
)  # fmt: skip
_Accuracies = tuple[tuple[str, str, Sequence[str]], ...]
_LAST_EPOCH: Final[_Accuracies] = (
    ("acc_many", "Many", ("sam", "sse-sam", "imbsam")),
    ("acc_medium", "Medium", ("sse-sam", "imbsam", "sam")),
    ("acc_few", "Few", ("sse-sam", "imbsam", "sam")),
)
_AFTER_THE_SWITCH: Final[_Accuracies] = (
    ("acc_medium", "Medium", ("sse-sam", "imbsam")),
    ("acc_few", "Few", ("sse-sam", "imbsam")),
    ("acc_many", "Many", ("sam", "sse-sam", "imbsam")),
)


def paper_claims(chosen: Selection, *, obstacle: str = "") -> tuple[Claim, ...]:
    """Judge every claim that speaks about what the runs hold.

    Args:
        chosen: The runs and rows compared.
        obstacle: Why methods cannot be compared at all (different settings, unfinished runs);
            claims between methods are then undecided.
    """
    orderings = (*_ratio_orderings(chosen), *_accuracy_orderings(chosen))
    return (
        _mostly_negative(chosen),
        *(judge(ordering, obstacle=obstacle) for ordering in orderings),
        *_loss_claims(chosen.runs),
    )


def _mostly_negative(chosen: Selection) -> Claim:
    if other := _of_another_matrix(chosen):
        return Claim("Footnote 2", "λ_min is mostly negative.", UNDECIDED, other)
    verdicts = [ratio.verdict for own in chosen.class_ratios.values() for ratio in own]
    negative, positive = verdicts.count("negative-curvature"), verdicts.count("positive")
    if 2 * negative > len(verdicts):
        verdict = SUPPORTED
    else:
        verdict = CONTRADICTED if 2 * positive > len(verdicts) else UNDECIDED
    reason = f"Below zero within bounds in {negative} of {len(verdicts)} class rows of these runs."
    return Claim("Footnote 2", "λ_min is mostly negative.", verdict, reason)


def _of_another_matrix(chosen: Selection) -> str:
    """Say that the rows are of another matrix than the claims."""
    if chosen.matrix in ("", WHOLE_HESSIAN):
        return ""
    return f"The rows are of {shorten(chosen.matrix, 60)}, and the claim is of the Hessian."


def _unlike_rows(chosen: Selection) -> str:
    """Say why the rows of these runs cannot be set against each other."""
    if other := _of_another_matrix(chosen):
        return other
    if chosen.rows.empty:
        return ""
    epochs = pd.to_numeric(chosen.rows.groupby("index")["epoch"].first(), errors="coerce").dropna()
    runs = [chosen.runs[int(index)] for index in epochs.index.astype(int)]
    shares = {(epoch + 1) / (run.epochs or 1) for run, epoch in zip(runs, epochs, strict=True)}
    if len(shares) > 1:
        return f"Measured at different epochs ({spread(epochs.astype(int))})."
    count = sum(len(chosen.ratios(panel.kind, panel.name)) for panel in chosen.panels)
    level = float(chosen.rows["confidence"].min())
    if count * (1.0 - level) >= 1.0:
        return f"Bounds at {percent(level)} say nothing of {count} rows together."
    return ""


def _ratio_orderings(chosen: Selection) -> Iterator[Ordering]:
    keys = ("all", "head", "tail") if chosen.names("group")[:1] == ["all"] else ("head", "tail")
    panels = dict(zip(keys, chosen.panels, strict=False))
    here = f"class {panels['tail'].name}" if "tail" in panels else "the tail class"
    here += " (class 80 in the paper)" if "tail" in panels and panels["tail"].name != "80" else ""
    networks: dict[str, Networks] = {}
    unlike = _unlike_rows(chosen)
    for key, panel in panels.items():
        # A network that cannot be compared must not drop out: the others would seem to agree.
        networks[key] = by_method(
            (
                chosen.runs[index],
                (ratio.lower, ratio.upper) if ratio.comparable else (-math.inf, math.inf),
            )
            for index, ratio in chosen.ratios(panel.kind, panel.name).items()
        )
    for source, key, statement, pairs in _RATIOS:
        obstacle = unlike
        if key in panels and panels[key].stands_in:
            obstacle = obstacle or f"{panels[key].title}: that of the claim was not measured."
        measured = networks.get(key, {})
        yield Ordering(source, statement.format(tail=here), pairs, measured, obstacle)


def _accuracy_orderings(chosen: Selection) -> Iterator[Ordering]:
    trained = chosen.trained
    for column, shot, order in _LAST_EPOCH:
        statement = f"{shot} accuracy, last epoch: {' > '.join(map(method_label, order))}."
        found = [(run, float(run.metrics[column].iloc[-1])) for run in trained]
        yield _accuracy("Table 3", statement, order, found)
    own = [run.switch_epoch for run in chosen.runs if run.method == "sse-sam"]
    starts = [epoch for epoch in own if epoch is not None]
    for column, shot, order in _AFTER_THE_SWITCH if starts else ():
        start = min(starts)
        statement = (
            f"Mean from epoch {start}, when stage 2 begins, to the end. {shot} accuracy: "
            f"{' > '.join(map(method_label, order))}."
        )
        late = [(run, run.metrics.loc[run.metrics["epoch"] >= start, column]) for run in trained]
        yield _accuracy("Fig. 3", statement, order, [(r, float(v.mean())) for r, v in late])


def _accuracy(
    source: str, statement: str, order: Sequence[str], found: Sequence[tuple[Run, float]]
) -> Ordering:
    known = [(run, (value, value)) for run, value in found if math.isfinite(value)]
    return Ordering(source, statement, list(pairwise(order)), by_method(known))


def _loss_claims(runs: Sequence[Run]) -> list[Claim]:
    """Two statements about a single training each: they need no comparison between methods."""
    sums, means = [], []
    for run in runs:
        losses = run.metrics[["loss_head", "loss_tail"]].dropna()
        losses = losses[(losses > 0).all(axis=1)]
        if losses.empty:
            continue
        ratio = losses["loss_head"] / losses["loss_tail"]
        means.append(float(ratio.median()))
        counts = run.counts
        head, tail = (
            sum(counts[c] for c in run.group(name) if 0 <= c < len(counts))
            for name in ("head", "tail")
        )
        if head and tail:
            sums.append(float((ratio * head / tail).median()))
    what = "Ratio of head to tail, median over the epochs"
    much = f"{what}; much larger is read as a factor of {MUCH:g}"
    total = "Summed over samples, the loss of the head classes is much larger than the tail's."
    mean = "The mean loss of the head classes lies below the tail's."
    eq8 = _ratio_verdict(sums, lambda ratio: ratio >= MUCH, lambda ratio: ratio <= 1, much)
    small = _ratio_verdict(means, lambda ratio: ratio < 1, lambda ratio: ratio >= 1, what)
    return [Claim("Eq. 8", total, *eq8), Claim("Small-loss assumption", mean, *small)]


def _ratio_verdict(
    ratios: list[float], holds: Callable[[float], bool], fails: Callable[[float], bool], what: str
) -> tuple[str, str]:
    if not ratios:
        return UNDECIDED, "No run recorded the losses of head and tail."
    ends = dict.fromkeys((number(min(ratios)), number(max(ratios))))
    span = f"{' to '.join(ends)} in {plural(len(ratios), 'run')}."
    if all(map(holds, ratios)):
        return SUPPORTED, f"{what}: {span}"
    return (CONTRADICTED if all(map(fails, ratios)) else UNDECIDED), f"{what}: {span}"
