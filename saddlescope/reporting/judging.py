"""When a claim between methods counts as decided, and when it does not.

A claim is decided only where every training seed agrees and there are enough of them: with three
seeds a method, complete separation in one given direction has probability 1/20 when the methods
do not differ, with two it has 1/6, with one it is a coin toss. λ_ratio counts as separated only
where the bounds of the eigenvalues are disjoint as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from saddlescope.reporting.loading import Run
from saddlescope.reporting.text import listing, method_label, plural

SUPPORTED: Final = "supported"
CONTRADICTED: Final = "contradicted"
UNDECIDED: Final = "undecided"

MIN_SEEDS: Final = 3
"""Training seeds of each method below which no claim between methods is decided."""

Sample = tuple[float, float]
"""Lower and upper bound of one network's value; equal where the value has no error."""

Samples = dict[str, dict[object, Sample]]
"""For each method its networks, keyed by training seed."""


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and what these runs say to it.

    Attributes:
        source: Where in the paper.
        statement: The claim, in the words of the runs' classes.
        verdict: `supported`, `contradicted` or `undecided`.
        reason: One or two sentences with the numbers.
    """

    source: str
    statement: str
    verdict: str
    reason: str


def judge(
    pairs: Sequence[tuple[str, str]],
    samples: Samples,
    *,
    obstacle: str = "",
) -> tuple[str, str]:
    """Verdict and reason for "the first of each pair lies above the second".

    Args:
        pairs: Method keys, larger and smaller.
        samples: For each method its networks, keyed by training seed.
        obstacle: A reason not to compare at all.
    """
    needed = dict.fromkeys(method for pair in pairs for method in pair)
    missing = [method_label(method) for method in needed if not samples.get(method)]
    if missing:
        return UNDECIDED, f"Nothing comparable was measured for {listing(missing)}."
    states = [_separation(samples[high], samples[low]) for high, low in pairs]
    agree, against = states.count(1), states.count(-1)
    evidence = f"These runs agree in {agree} of {plural(len(pairs), 'comparison')}"
    evidence += f", disagree in {against}" if against else ""
    overlap = len(pairs) - agree - against
    evidence += f", overlap in {overlap}." if overlap else "."
    if obstacle:
        return UNDECIDED, f"{obstacle} {evidence}"
    seeds = min(len(samples[method]) for method in needed)
    if seeds < MIN_SEEDS:
        count = "Only one training seed" if seeds == 1 else f"Only {seeds} training seeds"
        return UNDECIDED, f"{count} for a method. {evidence}"
    basis = f"{seeds} or more training seeds each."
    if against:
        return CONTRADICTED, f"{evidence} {basis}"
    return (UNDECIDED if overlap else SUPPORTED), f"{evidence} {basis}"


def _separation(high: dict[object, Sample], low: dict[object, Sample]) -> int:
    """1 when every network of `high` lies above every one of `low`, −1 when below, else 0."""
    both = list(product(high.values(), low.values()))
    if all(a[0] > b[1] for a, b in both):
        return 1
    return -1 if all(a[1] < b[0] for a, b in both) else 0


def add_sample(samples: Samples, run: Run, sample: Sample) -> None:
    """Add one network; a seed that was run twice counts once, with the hull of both."""
    key = run.name if run.seed is None else run.seed
    own = samples.setdefault(run.method, {})
    old = own.get(key, sample)
    own[key] = (min(old[0], sample[0]), max(old[1], sample[1]))
