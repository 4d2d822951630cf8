"""From a run folder back to the network and the data it was trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from saddlescope.longtail import Cut, FileOptions, LongTailData, dataset_spec, load_data
from saddlescope.runs import RunFolder
from saddlescope.training.checkpoints import load_checkpoint, load_weights, weights_digest
from saddlescope.training.network import recipe_network
from saddlescope.training.recipe import DataSection, Recipe, parse_recipe
from saddlescope.training.record import refuse_changed
from saddlescope.training.state import state_of_a_run, whole_number


@dataclass(frozen=True)
class TrainedRun:
    """A checkpoint brought back.

    Attributes:
        recipe: what it was trained with.
        model: on the device, in eval mode.
        data: on the device.
        epoch: the last finished one, counted from 0 as everywhere; None before the first.
        checkpoint: its stem ("last").
        digest: identifies the weights.
    """

    recipe: Recipe
    model: nn.Module
    data: LongTailData
    epoch: int | None
    checkpoint: str
    digest: str


def load_section(
    section: DataSection,
    *,
    root: str | PathLike[str] | None = None,
    workers: int = 0,
    cache: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> LongTailData:
    """Load the data set that a recipe's `[data]` names.

    Args:
        section: the recipe's.
        root: directory of the data sets.
        workers: processes that decode image files; changes no number.
        cache: folder of decoded images; changes no number.
        report: told what takes long.
    """
    files = FileOptions(
        section.train_list, section.test_list, section.image_size, section.shrink_to,
        workers=workers, cache=cache, report=report,
    )  # fmt: skip
    return load_data(
        section.name,
        root=root,
        imbalance_factor=section.imbalance_factor,
        cut=Cut(section.profile, section.subset, section.subset_seed),
        thresholds=section.thresholds(dataset_spec(section.name).thresholds),
        files=files,
    )


def restore_run(
    folder: RunFolder,
    *,
    checkpoint: str = "last",
    device: torch.device | str = "cpu",
    data_root: str | PathLike[str] | None = None,
) -> TrainedRun:
    """Rebuild the network of a run folder.

    Raises:
        DataError: no run, no such checkpoint, or one of another model; see `refuse_changed`.
        UsageError: the stored recipe is not one.
    """
    recipe = parse_recipe(folder.recipe(), origin=str(folder.recipe_file))
    path = folder.checkpoint(checkpoint)
    content = load_checkpoint(path, device=device)
    data = load_section(recipe.data, root=data_root)
    refuse_changed(folder, recipe, data)
    data = data.to(device)
    model = recipe_network(recipe, num_classes=data.num_classes, in_channels=data.in_channels)
    load_weights(model, content, origin=str(path))
    # Weights alone do not say when they were taken; of a finished run the last ones do.
    ended = (
        checkpoint == "last"
        and folder.run_file.is_file()
        and folder.run().get("state") == "finished"
    )
    epochs = recipe.training.epochs
    with state_of_a_run(str(path)):
        finished = whole_number(content.get("epoch", epochs if ended else 0), most=epochs)
    return TrainedRun(
        recipe=recipe,
        model=model.to(device).eval(),
        data=data,
        epoch=finished - 1 if finished else None,
        checkpoint=path.stem,
        digest=weights_digest(model.state_dict()),
    )
