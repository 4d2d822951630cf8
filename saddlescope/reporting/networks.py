"""Networks of loose tables: which rows are of one, and what it is called.

A table says of each row the run, its method and epoch, the checkpoint, and a digest of weights and
data. The epochs of a run are one network on its way. Other weights at the same epoch, or where
there are no epochs, are another network, whatever its run is called; and other data under the same
split are not set beside each other either.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Source(NamedTuple):
    """What a row says of where it comes from."""

    run: str
    method: str
    weights: str
    data: str
    epoch: int | None
    split: str
    checkpoint: str


@dataclass(frozen=True)
class Network:
    """Rows that are of one network.

    Attributes:
        name: the run's, and what tells it from others of that name.
        method: it was trained with; empty where nothing is known of that.
        sources: of its rows.
    """

    name: str
    method: str
    sources: frozenset[Source]

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row, or a record of a view, is of this network."""
        return source_of(row) in self.sources


def source_of(row: Mapping[str, Any]) -> Source:
    """Return what a row says of where it comes from."""
    weights, _, data = row["digest"].partition("+")[0].partition("-")
    words = {key: row[key] for key in ("run", "method", "epoch", "split", "checkpoint")}
    return Source(**words, weights=weights, data=data)


def networks_of(rows: Iterable[Mapping[str, Any]]) -> list[Network]:
    """Part the rows of tables by network, in the order in which these come first."""
    sources = list(dict.fromkeys(map(source_of, rows)))
    found = []
    for name, method in dict.fromkeys((one.run, one.method) for one in sources):
        own = [one for one in sources if (one.run, one.method) == (name, method)]
        parts = [
            samples for weights in _parted(own, "weights") for samples in _parted(weights, "data")
        ]
        for part, suffix in zip(parts, _suffixes(parts), strict=True):
            found.append(Network(f"{name}{suffix}", method, frozenset(part)))
    return found


def _parted(sources: list[Source], word: str) -> list[list[Source]]:
    """The sources, parted by a word where an epoch and split has several of it."""
    seen: dict[tuple[int | None, str], set[str]] = {}
    for one in sources:
        seen.setdefault((one.epoch, one.split), set()).add(getattr(one, word))
    if all(len(values) == 1 for values in seen.values()):
        return [sources]
    values = dict.fromkeys(getattr(one, word) for one in sources)
    return [[one for one in sources if getattr(one, word) == value] for value in values]


def _suffixes(parts: list[list[Source]]) -> list[str]:
    """What is said after the name of each of several: as little as tells them apart."""
    if len(parts) == 1:
        return [""]
    words = [[one[0].checkpoint, one[0].weights, one[0].data] for one in parts]
    for count in range(1, 4):
        told = [", ".join(filter(None, word[:count])) for word in words]
        if len(set(told)) == len(told):
            break
    return [f" ({text})" if text else "" for text in told]
