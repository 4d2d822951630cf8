"""Describe what a long-tailed data set holds, as plain data and as text."""

from dataclasses import asdict
from typing import Any

from saddlescope.longtail.datasets import LongTailData
from saddlescope.wording import ranges


def describe(data: LongTailData) -> dict[str, Any]:
    """Counts, groups and checksums, ready for JSON.

    Returns:
        A dictionary of numbers, strings, lists and dictionaries. `groups` holds, for each of
        all, head, tail, many, medium and few, its classes, its training images and their share
        of all.
    """
    total = sum(data.counts)
    return {
        "name": data.name,
        "num_classes": data.num_classes,
        "image_shape": list(data.train.image_shape),
        "imbalance_factor": data.imbalance_factor,
        **asdict(data.cut),
        "train_images": len(data.train),
        "test_images": len(data.test),
        **asdict(data.thresholds),
        "counts": list(data.counts),
        "class_names": list(data.class_names),
        "groups": {
            name: {
                "classes": list(classes),
                "train_images": sum(data.counts[c] for c in classes),
                "share": sum(data.counts[c] for c in classes) / total,
            }
            for name, classes in data.groups.items()
        },
        "checksums": {
            "train": data.train.checksum,
            "test": data.test.checksum,
            "all": data.checksum,
        },
    }


def describe_text(description: dict[str, Any]) -> str:
    """Return the dictionary of `describe` as aligned plain text, without a final newline."""
    channels, height, width = description["image_shape"]
    factor = description["imbalance_factor"]
    scheme = f"{description['profile']}, {description['subset']} of each class"
    if description["subset"] == "shuffled":
        scheme += f", seed {description['subset_seed']}"
    head = [
        ("data set", description["name"]),
        ("imbalance", "as it is" if factor is None else f"{factor:g} ({scheme})"),
        ("images", f"{description['train_images']} train, {description['test_images']} test"),
        ("shape", f"{channels} x {height} x {width}"),
        ("tail", f"fewer than {description['tail_threshold']} training images"),
        ("many", f"more than {description['many_above']}"),
        ("few", f"fewer than {description['few_below']}"),
        *((f"sha256 {split}", digest) for split, digest in description["checksums"].items()),
    ]
    groups = [("group", "images", "share", "classes", "which")] + [
        (
            name,
            str(group["train_images"]),
            f"{group['share']:.2%}",
            str(len(group["classes"])),
            ranges(group["classes"]) or "-",
        )
        for name, group in description["groups"].items()
    ]
    classes = [("class", "images", "name")] + [
        (str(number), str(count), name)
        for number, (count, name) in enumerate(
            zip(description["counts"], description["class_names"], strict=True)
        )
    ]
    return "\n\n".join(
        (
            _aligned(head, right=()),
            _aligned(groups, right=(1, 2, 3)),
            _aligned(classes, right=(0, 1)),
        )
    )


def _aligned(rows: list[Any], *, right: tuple[int, ...]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
