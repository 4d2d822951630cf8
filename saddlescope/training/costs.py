"""Estimate what a run will cost from its recipe alone: gradients of all the data, and disk."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from saddlescope.longtail import class_counts, dataset_spec
from saddlescope.models import build_model
from saddlescope.training.recipe import DataSection, ModelSection, Recipe
from saddlescope.training.restore import load_section

_HEAD = 64 * 1024
"""Bytes of a checkpoint beside weights and momentum, about."""


@dataclass(frozen=True)
class Estimate:
    """The cost of one run.

    Attributes:
        images: training images.
        steps: of the optimiser, in all.
        gradients: forward and backward passes over all training images, a backward pass counted
            as two forward ones; 1 an epoch of SGD.
        disk: bytes of the checkpoints.
    """

    images: int
    steps: int
    gradients: float
    disk: int


def estimate(recipe: Recipe, *, begun: int = 0, data_root: Path | None = None) -> Estimate:
    """Estimate a run; of its data only lists and folders of image files are looked at, if need be.

    Args:
        recipe: of the run.
        begun: epochs that another run has taken for it; they cost disk alone.
        data_root: needed where only the files say how many images there are.

    Raises:
        UsageError: an unknown data set, model or method.
    """
    data, training = recipe.data, recipe.training
    images, classes = _size(data, data_root)
    radii = recipe.method.radii(training.epochs)
    passes = [radii.passes(epoch) for epoch in range(begun, training.epochs)]
    if training.compile:  # what compiled code has saved serves one backward pass
        passes = [(backwards, backwards) for _, backwards in passes]
    kept = 2  # last and best
    if training.checkpoint_every:
        kept += training.epochs // training.checkpoint_every
    copies = 2 if recipe.optimizer.momentum else 1
    weights = 4 * _parameters(recipe.model, classes)
    return Estimate(
        images=images,
        steps=(training.epochs - begun) * math.ceil(images / recipe.optimizer.batch_size),
        gradients=sum((forwards + 2 * backwards) / 3 for forwards, backwards in passes),
        disk=kept * (copies * weights + _HEAD),
    )


def _size(data: DataSection, root: Path | None) -> tuple[int, int]:
    """Training images and classes."""
    spec = dataset_spec(data.name)
    factor = spec.imbalance_factor if data.imbalance_factor is None else data.imbalance_factor
    if spec.num_classes and spec.images and factor is None:
        return spec.images, spec.num_classes
    if spec.num_classes and spec.largest and factor is not None:
        counts = class_counts(
            num_classes=spec.num_classes,
            largest=spec.largest,
            imbalance_factor=factor,
            profile=data.profile,
        )
    else:
        counts = load_section(data, root=root).counts
    return sum(counts), len(counts)


@cache
def _parameters(section: ModelSection, classes: int) -> int:
    model = build_model(
        section.name, num_classes=classes, in_channels=3, seed=0, classifier=section.classifier
    )
    return sum(parameter.numel() for parameter in model.parameters())
