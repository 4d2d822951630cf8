"""The network that a recipe names."""

from torch import nn

from saddlescope.models import build_model
from saddlescope.training.recipe import Recipe


def recipe_network(recipe: Recipe, *, num_classes: int, in_channels: int) -> nn.Module:
    """Build it on the CPU with the weights that the recipe's seed stands for."""
    return build_model(
        recipe.model.name,
        num_classes=num_classes,
        in_channels=in_channels,
        seed=recipe.training.seed,
        classifier=recipe.model.classifier,
    )
