"""The network that a recipe names, and how it is made ready for training."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from saddlescope.errors import UsageError
from saddlescope.models import build_model
from saddlescope.parallel import ALONE, Ranks
from saddlescope.training.decoupling import freeze_first_stage, prepare_second_stage
from saddlescope.training.recipe import Recipe


def recipe_network(recipe: Recipe, *, num_classes: int, in_channels: int) -> nn.Module:
    """Build it on the CPU with the weights that the recipe's seed stands for."""
    second = recipe.decoupling
    scaled = second is not None and second.classifier == "lws"
    return build_model(
        recipe.model.name,
        num_classes=num_classes,
        in_channels=in_channels,
        seed=recipe.training.seed,
        classifier="scaled" if scaled else recipe.model.classifier,
        norm=recipe.model.norm,
    )


def training_network(
    recipe: Recipe,
    *,
    num_classes: int,
    in_channels: int,
    device: torch.device,
    ranks: Ranks = ALONE,
    start: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Build it on a device as the recipe wants it trained.

    Args:
        recipe: of the run.
        num_classes: size of the output.
        in_channels: channels of the images.
        device: where it computes.
        ranks: who shares each batch.
        start: of a second stage: the weights of the first; None where a checkpoint will follow.
    """
    model = recipe_network(recipe, num_classes=num_classes, in_channels=in_channels)
    if recipe.decoupling is not None:
        if start is not None:
            prepare_second_stage(model, recipe, dict(start))
        freeze_first_stage(model, recipe)
    if recipe.training.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = model.to(device)
    if recipe.training.sync_bn and ranks.size > 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model, ranks.group)
    if recipe.training.compile:
        model.compile()
    return model


def refuse_parts_of_one(
    recipe: Recipe, image: Callable[[], Tensor], *, samples: int, num_classes: int, ranks: int
) -> None:
    """Refuse a run in which BatchNorm would meet a single number a channel, before its first step.

    Where the last feature map is 1×1, a batch of one image is such; so may be the last batch of an
    epoch, a rank's part of it, or one of its parts (`training.accumulate`).

    Args:
        recipe: of the run.
        image: gives one training image, shape (1, C, H, W).
        samples: of an epoch.
        num_classes: size of the network's output.
        ranks: that share each batch.

    Raises:
        UsageError: names what to change.
    """
    size, parts = recipe.optimizer.batch_size, recipe.training.accumulate
    batches = {min(size, samples), samples % size} - {0}
    shares = [batch // ranks if batch >= ranks else batch for batch in batches]
    if min(share // min(parts, share) for share in shares) > 1:
        return
    one = image().cpu()
    model = recipe_network(recipe, num_classes=num_classes, in_channels=one.shape[1]).train()
    try:
        model(one)
    except ValueError as error:
        raise UsageError(
            f"{samples} images in batches of {size} leave BatchNorm a single image to normalise "
            f"({error}): choose another optimizer.batch_size"
            + (", or a smaller training.accumulate" if parts > 1 else "")
        ) from None


@torch.no_grad()
def average_statistics(model: nn.Module, ranks: Ranks) -> None:
    """Give all ranks the mean of their BatchNorm statistics, in place.

    Running statistics depend linearly on those of the batches, so it does not matter when.
    """
    if ranks.size == 1:
        return
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    flat = ranks.total(torch.cat([buffer.reshape(-1) for buffer in buffers])) / ranks.size
    for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part.view(buffer.shape))
