"""The paper's ordering claims, each held against the runs: supported, contradicted, undecided.

Fig. 3 and 4, Table 3, footnote 2, Eq. 8 and the small-loss assumption of the paper. Claims between
methods follow the rule of `judging`; the last two speak about one training at a time.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

from saddlescope.reporting.judging import (
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    Claim,
    Samples,
    add_sample,
    judge,
)
from saddlescope.reporting.loading import Run
from saddlescope.reporting.selection import Panel, Selection
from saddlescope.reporting.text import method_label, number, plural

MUCH: Final = 10.0
"""What "much larger" in Eq. 8 is taken to mean, as a factor."""


def paper_claims(chosen: Selection, *, obstacle: str = "") -> tuple[Claim, ...]:
    """Judge every claim that speaks about what the runs hold.

    Args:
        chosen: The runs and rows compared.
        obstacle: Why methods cannot be compared at all (different settings, unfinished runs);
            claims between methods are then undecided.
    """
    return (
        _mostly_negative(chosen),
        *_ratio_claims(chosen, obstacle),
        *_accuracy_claims(chosen.runs, obstacle),
        *_loss_claims(chosen.runs),
    )


def _mostly_negative(chosen: Selection) -> Claim:
    names = chosen.names("class")
    found = [chosen.estimate(i, "class", name) for i in range(len(chosen.runs)) for name in names]
    verdicts = [estimate.verdict for estimate in found if estimate]
    negative, positive = verdicts.count("negative-curvature"), verdicts.count("positive")
    if 2 * negative > len(verdicts):
        verdict = SUPPORTED
    else:
        verdict = CONTRADICTED if 2 * positive > len(verdicts) else UNDECIDED
    reason = f"Below zero within bounds in {negative} of {len(verdicts)} class rows of these runs."
    return Claim("Footnote 2", "λ_min is mostly negative.", verdict, reason)


def _ratio_claims(chosen: Selection, obstacle: str) -> list[Claim]:
    panels = {("all", "class 0", "tail")[i]: panel for i, panel in enumerate(chosen.panels[:3])}
    if chosen.panels and chosen.panels[0].kind == "class":  # the group "all" was not measured
        panels = dict(zip(("class 0", "tail"), chosen.panels, strict=False))
    highest = [("sse-sam", other) for other in ("sgd", "sam", "imbsam", "sam-ext")]
    tail = panels.get("tail")
    here = f"class {tail.name}" if tail else "the tail class"
    here += " (class 80 in the paper)" if tail and tail.name != "80" else ""
    claims = [
        ("Fig. 4a", "all", "λ_ratio over all samples: SSE-SAM highest.", highest),
        ("Fig. 4b", "class 0", "λ_ratio on the most frequent class: SSE-SAM highest.", highest),
        ("Fig. 4b", "class 0", "λ_ratio on the most frequent class: SAM > ImbSAM.",
         [("sam", "imbsam")]),
        ("Fig. 4c", "tail", f"λ_ratio on {here}: ImbSAM > SSE-SAM > SAM (ext.).",
         [("imbsam", "sse-sam"), ("sse-sam", "sam-ext")]),
        ("Fig. 4c", "tail", f"λ_ratio on {here}: ImbSAM > SGD and SAM.",
         [("imbsam", "sgd"), ("imbsam", "sam")]),
    ]  # fmt: skip
    result = []
    for source, key, statement, pairs in claims:
        panel = panels.get(key)
        samples = _ratio_samples(chosen, panel) if panel else {}
        result.append(Claim(source, statement, *judge(pairs, samples, obstacle=obstacle)))
    return result


def _ratio_samples(chosen: Selection, panel: Panel) -> Samples:
    samples: Samples = {}
    for index, run in enumerate(chosen.runs):
        estimate = chosen.estimate(index, panel.kind, panel.name)
        if estimate:
            # A network that cannot be compared must not drop out: the others would seem to agree.
            bounds = (
                (estimate.lower, estimate.upper) if estimate.comparable else (-math.inf, math.inf)
            )
            add_sample(samples, run, bounds)
    return samples


def _accuracy_claims(runs: Sequence[Run], obstacle: str) -> list[Claim]:
    orders = {
        "acc_many": ("Many", ("sam", "sse-sam", "imbsam")),
        "acc_medium": ("Medium", ("sse-sam", "imbsam", "sam")),
        "acc_few": ("Few", ("sse-sam", "imbsam", "sam")),
    }

    def last(column: str) -> Callable[[Run], float]:
        return lambda run: float(run.metrics[column].iloc[-1])

    claims = []
    for column, (shot, order) in orders.items():
        samples = _metric_samples(runs, last(column))
        text = f"{shot} accuracy, last epoch: {' > '.join(map(method_label, order))}."
        pairs = list(pairwise(order))
        claims.append(Claim("Table 3", text, *judge(pairs, samples, obstacle=obstacle)))
    starts = [run.switch_epoch for run in runs if run.switch_epoch is not None]
    if starts:
        claims += [
            _after_switch(runs, min(starts), column, f"{shot} accuracy: {text}", pairs, obstacle)
            for column, shot, text, pairs in (
                ("acc_medium", "Medium", "SSE-SAM > ImbSAM.", [("sse-sam", "imbsam")]),
                ("acc_few", "Few", "SSE-SAM > ImbSAM.", [("sse-sam", "imbsam")]),
                ("acc_many", "Many", "SAM > SSE-SAM > ImbSAM.",
                 [("sam", "sse-sam"), ("sse-sam", "imbsam")]),
            )
        ]  # fmt: skip
    return claims


def _after_switch(
    runs: Sequence[Run],
    start: int,
    column: str,
    statement: str,
    pairs: list[tuple[str, str]],
    obstacle: str,
) -> Claim:
    def mean(run: Run) -> float:
        return float(run.metrics.loc[run.metrics["epoch"] >= start, column].mean())

    samples = _metric_samples(runs, mean)
    text = f"Mean from epoch {start}, when stage 2 begins, to the end. {statement}"
    return Claim("Fig. 3", text, *judge(pairs, samples, obstacle=obstacle))


def _metric_samples(runs: Sequence[Run], measure: Callable[[Run], float]) -> Samples:
    samples: Samples = {}
    for run in runs:
        value = measure(run) if len(run.metrics) else math.nan
        if math.isfinite(value):
            add_sample(samples, run, (value, value))
    return samples


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
