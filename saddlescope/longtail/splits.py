"""Head and tail, and the three shots: classes grouped by their number of training images.

Head and tail (Ratio-ImbSAM's and SSE-SAM's split): tail classes have fewer images than
`tail_threshold`. Shots (Liu et al., "Large-scale long-tailed recognition in an open world",
CVPR 2019): many, medium and few.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from saddlescope.errors import UsageError

Classes = tuple[int, ...]


@dataclass(frozen=True)
class Thresholds:
    """Where the classes are parted, in training images; the defaults are ImageNet-LT's.

    Attributes:
        tail_threshold: tail classes have fewer.
        many_above: "many" classes have more.
        few_below: "few" classes have fewer.
    """

    tail_threshold: int = 100
    many_above: int = 100
    few_below: int = 20

    def groups(self, counts: Sequence[int]) -> dict[str, Classes]:
        """Group the classes as "all", "head", "tail", "many", "medium" and "few".

        Args:
            counts: training images of each class.

        Raises:
            UsageError: see `head_tail` and `shots`.
        """
        head, tail = head_tail(counts, tail_threshold=self.tail_threshold)
        grouped = {"all": tuple(range(len(counts))), "head": head, "tail": tail}
        return grouped | shots(counts, many_above=self.many_above, few_below=self.few_below)


def head_tail(counts: Sequence[int], *, tail_threshold: int) -> tuple[Classes, Classes]:
    """Split the classes in two: tail is count < tail_threshold, head is the rest.

    Args:
        counts: training images of each class.
        tail_threshold: smallest count of a head class.

    Returns:
        Head classes and tail classes, ascending, neither empty.

    Raises:
        UsageError: no class on one side; the message says which thresholds work.
    """
    head = tuple(c for c, n in enumerate(counts) if n >= tail_threshold)
    tail = tuple(c for c, n in enumerate(counts) if n < tail_threshold)
    if head and tail:
        return head, tail
    if min(counts) == max(counts):
        raise UsageError(
            f"tail_threshold={tail_threshold}: every class has {counts[0]} images, so no "
            "threshold parts head from tail; raise imbalance_factor"
        )
    empty = "tail" if head else "head"
    raise UsageError(
        f"tail_threshold={tail_threshold} leaves no {empty} class: "
        f"choose from {min(counts) + 1} to {max(counts)}"
    )


def shots(counts: Sequence[int], *, many_above: int, few_below: int) -> dict[str, Classes]:
    """Split the classes in three: many > many_above, few < few_below, medium between.

    Args:
        counts: training images of each class.
        many_above: a class with more images is "many".
        few_below: a class with fewer images is "few".

    Returns:
        Classes of "many", "medium" and "few", ascending; any of them may be empty.

    Raises:
        UsageError: few_below above many_above + 1, where a class could be both.
    """
    if few_below > many_above + 1:
        raise UsageError(
            f"few_below={few_below} and many_above={many_above} overlap: "
            f"few_below may be {many_above + 1} at most"
        )
    return {
        "many": tuple(c for c, n in enumerate(counts) if n > many_above),
        "medium": tuple(c for c, n in enumerate(counts) if few_below <= n <= many_above),
        "few": tuple(c for c, n in enumerate(counts) if n < few_below),
    }
