"""The runs' findings, in sentences made from the numbers, and what they cannot show.

Only differences that the bounds support are stated; they are differences between the measured
checkpoints. Negative curvature is never called a saddle without the gradient norm beside it: at
a trained network the gradient of one class does not vanish.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import pandas as pd

from saddlescope.reporting.claims import paper_claims
from saddlescope.reporting.judging import MIN_SEEDS, Claim
from saddlescope.reporting.loading import Run, flatten
from saddlescope.reporting.ordering import comparison
from saddlescope.reporting.selection import (
    WORST_FIRST,
    Ratio,
    Selection,
    spread,
)
from saddlescope.reporting.text import listing, number, plural, shorten
from saddlescope.runs import WHOLE_HESSIAN
from saddlescope.wording import percent

_WORDS = {
    "negative-curvature": "negative curvature resolved",
    "unresolved": "unresolved",
    "positive": "positive",
    "not-converged": "not converged",
}


_FREE = (
    "name", "seed", "training.seed", "training.checkpoint_every", "training.losses_every",
    "training.norms_every",
)  # fmt: skip
"""Keys of a recipe that runs to be compared may differ in; the last three change what is kept."""


@dataclass(frozen=True)
class RunVerdict:
    """Hold what the classes of one checkpoint say together.

    Attributes:
        verdict: `negative-curvature` if that of any class, else the most cautious of the classes;
            empty where none was measured.
        label: of the run.
        text: in how many of its classes, λ_ratio, ‖∇L‖.
    """

    verdict: str
    label: str
    text: str


@dataclass(frozen=True)
class Findings:
    """Sentences about a set of runs.

    Attributes:
        paragraph: The answer in a few sentences.
        comparisons: One sentence for each panel of Fig. 4: the order that the bounds support.
        verdicts: One line for each measured run.
        limits: What cannot be claimed, and why.
        claims: The paper's claims with their verdicts.
    """

    paragraph: str
    comparisons: tuple[str, ...]
    verdicts: tuple[RunVerdict, ...]
    limits: tuple[str, ...]
    claims: tuple[Claim, ...]


def find(chosen: Selection) -> Findings:
    """Derive the findings from what was selected."""
    if not chosen.runs:
        return Findings("No run could be read, so nothing can be said.", (), (), (), ())
    obstacle = _obstacle(chosen.runs)
    several = not obstacle if chosen.of_methods else len(chosen.measured) > 1
    comparisons = tuple(comparison(chosen, panel) for panel in chosen.panels if several)
    verdicts = tuple(
        _verdict(chosen.labels[index], ratios) for index, ratios in chosen.class_ratios.items()
    )
    limits = _limits(chosen, obstacle)
    return Findings(
        paragraph=" ".join(_paragraph(chosen, comparisons, limits, obstacle)),
        comparisons=comparisons,
        verdicts=verdicts,
        limits=limits,
        claims=paper_claims(chosen, obstacle=obstacle) if chosen.of_methods else (),
    )


def _verdict(label: str, ratios: Sequence[Ratio]) -> RunVerdict:
    found = [ratio.verdict for ratio in ratios]
    if not found:
        return RunVerdict("", label, "no class measured")
    first = ("negative-curvature", *WORST_FIRST)
    verdict = next((word for word in first if word in found), min(found))
    count = found.count(verdict)
    where = f"in {count} of {plural(len(found), 'class', 'classes')}"
    others = [word for word in found if word != verdict]
    rest = f" ({_counts(others)})" if others else ""
    ratio = _range(ratio.value for ratio in ratios)
    norms = _range(ratio.gradient_norm for ratio in ratios)
    return RunVerdict(verdict, label, f"{where}{rest}; λ_ratio {ratio}; ‖∇L‖ {norms}")


def _paragraph(
    chosen: Selection, comparisons: Sequence[str], limits: Sequence[str], obstacle: str
) -> Iterable[str]:
    if chosen.rows.empty:
        yield "No spectrum was measured, so nothing can be said about saddles."
        return
    measured = chosen.measured
    epochs = sorted(set(pd.to_numeric(chosen.rows["epoch"], errors="coerce").dropna().astype(int)))
    when = f" after epoch {spread(epochs)}" if epochs else ""
    names = [chosen.labels[index] for index in measured]
    who = f" ({listing(names)})" if len(names) <= 6 else ""
    split = shorten(chosen.split, 20)
    verb = "was" if len(measured) == 1 else "were"
    yield f"{plural(len(measured), 'checkpoint')}{who} {verb} measured{when} on the {split} split."
    ratios = [ratio for own in chosen.class_ratios.values() for ratio in own]
    if ratios:
        counts = _counts(ratio.verdict for ratio in ratios)
        yield f"Class by class, {plural(len(ratios), 'row')}: {counts}."
    negative = [r.gradient_norm for r in ratios if r.verdict == "negative-curvature"]
    if negative and not chosen.of_the_loss:
        yield (
            f"The matrix is {shorten(chosen.matrix, 60)}, which is not the second derivative of "
            "the loss: what is negative there says nothing of a saddle."
        )
    elif negative:
        yield (
            f"Where it is resolved the loss curves down in some direction; ‖∇L‖ there is "
            f"{_range(negative)}, so these are saddles only as far as such a gradient passes for "
            "zero."
        )
    if len(measured) > 1 and obstacle and chosen.of_methods:
        yield f"The methods cannot be compared. {obstacle}"
    elif len(measured) > 1 and comparisons:
        higher = ", higher being further from a saddle" if chosen.of_the_loss else ""
        yield f"By λ_ratio{higher}: {comparisons[0]}"
    yield limits[0]


def _limits(chosen: Selection, obstacle: str) -> tuple[str, ...]:
    limits = [_of_seeds(chosen), *([obstacle] if obstacle else ())] if chosen.of_methods else []
    negative = (chosen.rows["verdict"] == "negative-curvature").any()
    hessian = chosen.matrix == WHOLE_HESSIAN
    if negative and hessian and any(_piecewise_linear(run.recipe) for run in chosen.runs):
        limits.append(
            "A network of ReLUs is linear in each of its tensors, piece by piece, and so the part "
            "of its Hessian that can curve down has zero trace: λ_min < 0 comes with the "
            "architecture. What the loss does along it: saddlescope spectrum --with split."
        )
    if not chosen.rows.empty:
        limits.append(
            "The bounds are the numerical uncertainty of each eigenvalue of one checkpoint; the "
            "spread over training seeds and over samples is not in them."
        )
        level = chosen.rows["confidence"].min()
        count = sum(len(chosen.ratios(panel.kind, panel.name)) for panel in chosen.panels)
        together = 1 - count * (1 - level)
        if count > 1 and together > 0:
            limits.append(
                f"Each bound holds with probability {percent(level)} or more, the {count} "
                f"{'behind the orders' if chosen.of_methods else 'of the first figure'} together "
                f"with {percent(together, 4)} or more."
            )
    return tuple(limits)


def _of_seeds(chosen: Selection) -> str:
    """Say what the number of training seeds supports."""
    shown = [chosen.runs[index] for index in chosen.measured] or chosen.runs
    seeds = Counter(method for method, _ in {(run.method, run.seed) for run in shown})
    fewest = min(seeds.values(), default=0)
    if fewest == 1:
        return (
            "One training seed supports no claim between methods: an order is one of these "
            "checkpoints, and another seed may turn it around."
        )
    if fewest < MIN_SEEDS:
        return (
            f"{fewest} training seeds for a method support no claim between methods: "
            "with two, complete separation happens by chance once in six."
        )
    return (
        f"{fewest} training seeds for each method: a claim between methods is made only where "
        f"all seeds agree, which chance alone brings about once in {comb(2 * fewest, fewest)} "
        "comparisons."
    )


def _obstacle(runs: Sequence[Run]) -> str:
    """Say why methods cannot be compared on these runs; nothing when they can."""
    if loose := [run.name for run in runs if run.path is None]:
        return f"How they were trained is not known: {shorten(', '.join(loose), 80)}."
    unfinished = [run.name for run in runs if not run.finished]
    if unfinished:
        return f"Not finished: {shorten(', '.join(unfinished), 80)}."
    data = [run.info.get("data") for run in runs]
    told = {json.dumps([d.get("checksum"), d.get("counts")]) for d in data if isinstance(d, dict)}
    if len(told) > 1:
        return "The runs were trained on different data, as their run.json say."
    flat = [flatten(run.recipe) for run in runs]
    keys = sorted({key for recipe in flat for key in recipe})
    shared = [key for key in keys if key not in _FREE and key.split(".")[0] != "method"]
    differing = [key for key in shared if len({recipe.get(key) for recipe in flat}) > 1]
    if differing:
        named = ", ".join(differing[:3]) + (", …" if len(differing) > 3 else "")
        return f"The runs differ in more than method and seed: {named}."
    own = [key for key in keys if key.split(".")[0] == "method"]
    settings = {(run.method, *map(recipe.get, own)) for run, recipe in zip(runs, flat, strict=True)}
    if len(settings) > len({run.method for run in runs}):
        return "Some method was run with more than one setting of its own."
    return ""


def _piecewise_linear(recipe: dict[str, Any]) -> bool:
    """Whether a recipe's network is one of ReLUs with a linear last layer."""
    model = recipe.get("model")
    known = model if isinstance(model, dict) else {}
    return (
        str(known.get("name")).startswith("resne")
        and known.get("classifier", "linear") == "linear"
        and known.get("norm", "batch") == "batch"
    )


def _counts(verdicts: Iterable[str]) -> str:
    counts = Counter(verdicts)
    known = [word for word in reversed(WORST_FIRST) if counts[word]]
    known += sorted(word for word in counts if word not in WORST_FIRST)
    return ", ".join(f"{_WORDS.get(word, shorten(word, 30))} in {counts[word]}" for word in known)


def _range(values: Iterable[float]) -> str:
    known = sorted(value for value in values if value == value)
    if not known:
        return "not recorded"
    low, high = number(known[0], 2), number(known[-1], 2)
    return low if low == high else f"{low} to {high}"
