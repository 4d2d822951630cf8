"""Which checkpoints the bounds put in an order, and the sentence that says so.

Disjoint bounds order two checkpoints; overlapping ones do not. With several training seeds the
same is said of methods, each spanning all of its networks.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from saddlescope.reporting.selection import Panel, Ratio, Selection, spread
from saddlescope.reporting.text import plural, shorten


def order(entries: Sequence[tuple[str, Ratio]]) -> list[list[str]]:
    """Group labels from the highest λ_ratio down; groups have disjoint bounds.

    Within a group each member overlaps at least one other, so the group is not ordered further
    even where two of its members are disjoint.
    """
    known = [entry for entry in entries if entry[1].comparable]
    known.sort(key=lambda entry: (-entry[1].lower, entry[0]))
    groups: list[tuple[float, list[str]]] = []
    for label, ratio in known:
        members = [label]
        # A bound without an upper end reaches into every group above it, not only the last.
        while groups and ratio.upper >= groups[-1][0]:
            members = groups.pop()[1] + members
        groups.append((ratio.lower, members))
    return [members for _, members in groups]


def comparison(chosen: Selection, panel: Panel) -> str:
    """The order of one panel that the bounds support, and how many pairs they tell apart."""
    entries, what = _entries(chosen, panel)
    known = [entry for entry in entries if entry[1].comparable]
    samples = spread(ratio.n for _, ratio in entries)
    head = f"{panel.title} (n = {samples}): "
    left = [label for label, ratio in entries if not ratio.comparable]
    tail = f"; not compared: {', '.join(left)}." if left else "."
    if len(known) < 2:
        return f"{head}fewer than two {what} to compare{tail}"
    groups = [names[0] if len(names) == 1 else f"{{{', '.join(names)}}}" for names in order(known)]
    pairs = list(combinations([ratio for _, ratio in known], 2))
    apart = sum(a.above(b) or b.above(a) for a, b in pairs)
    return (
        f"{head}{' > '.join(groups)}; bounds disjoint in {apart} of "
        f"{plural(len(pairs), 'pair')} of {what}{tail}"
    )


def _entries(chosen: Selection, panel: Panel) -> tuple[list[tuple[str, Ratio]], str]:
    """What to put in order: checkpoints, or methods where one has several.

    A method's interval is then the hull of its networks', so that disjoint means that every
    network of one lies above every network of the other.
    """
    singles = chosen.ratios(panel.kind, panel.name)
    methods: dict[str, list[Ratio]] = {}
    for index, ratio in singles.items():
        methods.setdefault(chosen.runs[index].method_label, []).append(ratio)
    if len(methods) == len(singles) or len(methods) < 2:
        return [(chosen.labels[index], ratio) for index, ratio in singles.items()], "checkpoints"
    hulls = [
        (
            f"{shorten(label, 28)} (all {len(own)})" if len(own) > 1 else shorten(label, 28),
            replace(
                own[0],
                lower=min(e.lower for e in own) if all(e.comparable for e in own) else math.nan,
                upper=max(e.upper for e in own),
            ),
        )
        for label, own in methods.items()
    ]
    return hulls, "methods in these runs"
