"""When a claim between methods counts as decided, and when it does not.

A claim is decided only where every training seed agrees and there are enough of them: with three
seeds a method, complete separation in one given direction has probability 1/20 when the methods
do not differ, with two it has 1/6, with one it is a coin toss. λ_ratio counts as separated only
where the bounds of the eigenvalues are disjoint as well.
"""

from collections.abc import Iterable, Sequence
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

Bounds = tuple[float, float]
"""Lower and upper bound of one network's value; equal where the value has no error."""

Networks = dict[str, dict[object, Bounds]]
"""For each method the bounds of its networks, keyed by training seed."""


@dataclass(frozen=True)
class Ordering:
    """A claim of the paper that methods lie in an order.

    Attributes:
        source: Where in the paper.
        statement: The claim, in the words of the runs' classes.
        pairs: Method keys: the first of each pair lies above the second.
        networks: What was measured.
        obstacle: Why these cannot decide it, whatever they say.
    """

    source: str
    statement: str
    pairs: Sequence[tuple[str, str]]
    networks: Networks
    obstacle: str = ""


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


def judge(ordering: Ordering, *, obstacle: str = "") -> Claim:
    """Decide an ordering, or say why it is undecided.

    Args:
        ordering: The claim with what was measured.
        obstacle: A reason not to compare at all.
    """
    obstacle = obstacle or ordering.obstacle
    verdict, reason = _verdict(ordering.pairs, ordering.networks, obstacle)
    return Claim(ordering.source, ordering.statement, verdict, reason)


def _verdict(
    pairs: Sequence[tuple[str, str]], networks: Networks, obstacle: str
) -> tuple[str, str]:
    needed = dict.fromkeys(method for pair in pairs for method in pair)
    missing = [method_label(method) for method in needed if not networks.get(method)]
    if missing:
        return UNDECIDED, f"Nothing comparable was measured for {listing(missing)}."
    states = [_separation(networks[high], networks[low]) for high, low in pairs]
    agree, against = states.count(1), states.count(-1)
    evidence = f"These runs agree in {agree} of {plural(len(pairs), 'comparison')}"
    evidence += f", disagree in {against}" if against else ""
    overlap = len(pairs) - agree - against
    evidence += f", overlap in {overlap}." if overlap else "."
    if obstacle:
        return UNDECIDED, f"{obstacle} {evidence}"
    seeds = min(len(networks[method]) for method in needed)
    if seeds < MIN_SEEDS:
        count = "Only one training seed" if seeds == 1 else f"Only {seeds} training seeds"
        return UNDECIDED, f"{count} for a method. {evidence}"
    basis = f"{seeds} or more training seeds each."
    if against:
        return CONTRADICTED, f"{evidence} {basis}"
    return (UNDECIDED if overlap else SUPPORTED), f"{evidence} {basis}"


def _separation(high: dict[object, Bounds], low: dict[object, Bounds]) -> int:
    """Return 1 when every network of `high` lies above all of `low`, −1 when below, else 0."""
    both = list(product(high.values(), low.values()))
    if all(a[0] > b[1] for a, b in both):
        return 1
    return -1 if all(a[1] < b[0] for a, b in both) else 0


def by_method(measured: Iterable[tuple[Run, Bounds]]) -> Networks:
    """Sort networks by method; a seed that was run twice counts once, with the hull of both."""
    networks: Networks = {}
    for run, bounds in measured:
        key = run.name if run.seed is None else run.seed
        own = networks.setdefault(run.method, {})
        old = own.get(key, bounds)
        own[key] = (min(old[0], bounds[0]), max(old[1], bounds[1]))
    return networks
