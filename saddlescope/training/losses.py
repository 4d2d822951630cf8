"""The loss of an epoch: the recipe's, with the class weights that may come late."""

from torch import nn

from saddlescope.longtail import LongTailData, make_loss
from saddlescope.training.recipe import Recipe


def epoch_loss(
    recipe: Recipe, data: LongTailData, epoch: int, *, reduction: str = "mean"
) -> nn.Module:
    """Return the loss that an epoch, counted from 0, is trained with, on the device of the data."""
    loss = make_loss(
        recipe.loss.name,
        data.counts,
        reduction=reduction,
        reweight_beta=recipe.loss.weights_beta(epoch, recipe.training.epochs),
        **recipe.loss.options(),
    )
    return loss.to(data.train.device)
