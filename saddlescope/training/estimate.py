"""What a run will cost, from its recipe alone: gradients of all the data, and disk."""

import math
from dataclasses import dataclass
from functools import cache

from saddlescope.longtail import class_counts, dataset_spec
from saddlescope.models import build_model
from saddlescope.training.recipe import ModelSection, Recipe

_HEAD = 64 * 1024
"""Bytes of a checkpoint beside weights and momentum, about."""


@dataclass(frozen=True)
class Estimate:
    """Of one run.

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


def estimate(recipe: Recipe) -> Estimate:
    """Estimate a run without reading its data.

    Raises:
        UsageError: an unknown data set, model or method.
    """
    data, training = recipe.data, recipe.training
    spec = dataset_spec(data.name)
    images = sum(
        class_counts(
            num_classes=spec.num_classes,
            largest=spec.largest,
            imbalance_factor=data.imbalance_factor,
            profile=data.profile,
        )
    )
    radii = recipe.method.radii(training.epochs)
    passes = [radii.passes(epoch) for epoch in range(training.epochs)]
    kept = 2  # last and best
    if training.checkpoint_every:
        kept += training.epochs // training.checkpoint_every
    copies = 2 if recipe.optimizer.momentum else 1
    weights = 4 * _parameters(recipe.model, spec.num_classes)
    return Estimate(
        images=images,
        steps=training.epochs * math.ceil(images / recipe.optimizer.batch_size),
        gradients=sum((forwards + 2 * backwards) / 3 for forwards, backwards in passes),
        disk=kept * (copies * weights + _HEAD),
    )


@cache
def _parameters(section: ModelSection, classes: int) -> int:
    model = build_model(
        section.name, num_classes=classes, in_channels=3, seed=0, classifier=section.classifier
    )
    return sum(parameter.numel() for parameter in model.parameters())
