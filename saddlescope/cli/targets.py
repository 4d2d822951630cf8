"""Find what several commands are to measure: a run folder, or a network from elsewhere."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saddlescope.cli.completion import CHECKPOINTS, one_of
from saddlescope.errors import UsageError

if TYPE_CHECKING:
    import torch

    from saddlescope.measurement import Target


class Split(StrEnum):
    """Which samples."""

    TRAIN = "train"
    TEST = "test"


class Criterion(StrEnum):
    """Which loss."""

    CE = "ce"
    TRAINING = "training"


Run = Annotated[
    Path | None, typer.Argument(help="A run folder.", metavar="[RUN]", show_default=False)
]
Checkpoint = Annotated[
    str,
    typer.Option(
        help="last, best or an epoch number; with --model, a file of weights.",
        autocompletion=one_of(CHECKPOINTS),
    ),
]
Model = Annotated[
    str | None, typer.Option(help="package.module:factory of a network from elsewhere.")
]
Data = Annotated[str | None, typer.Option(help="package.module:dataset to go with --model.")]
WhichSplit = Annotated[Split, typer.Option(help="train or test.")]
WhichCriterion = Annotated[
    Criterion, typer.Option(help="ce, or training for the loss the network was trained with.")
]
Confidence = Annotated[float, typer.Option(help="Joint probability of a row's intervals.")]


def find_target(
    run: Path | None,
    model: str | None,
    data: str | None,
    *,
    checkpoint: str,
    split: str,
    criterion: str,
    data_root: Path | None,
    device: "torch.device",
) -> "tuple[Target, Path | None]":
    """Return the target asked for, and where its table belongs."""
    from saddlescope.measurement import foreign_target, run_target
    from saddlescope.runs import RunFolder

    if (run is None) == (model is None):
        raise UsageError("give a run folder, or --model with --data: one of the two")
    if run is not None:
        if data is not None:
            raise UsageError("--data goes with --model; a run folder knows its own data")
        folder = RunFolder(run)
        target = run_target(
            folder, checkpoint=checkpoint, split=split, criterion=criterion, device=device,
            data_root=data_root,
        )  # fmt: skip
        return target, folder.spectrum_file(target.identity["checkpoint"], split)
    if data is None:
        raise UsageError("--model needs --data package.module:dataset")
    if criterion != "ce":
        raise UsageError("--criterion training is known of run folders only")
    assert model is not None
    weights = None if checkpoint == "last" else Path(checkpoint)
    return foreign_target(model, data, checkpoint=weights, split=split, device=device), None


def group_names(text: str | None, target: "Target") -> list[str]:
    """Return the groups asked for; by default those that this data set has."""
    if text is None:
        known = getattr(target.samples, "groups", {})
        return ["all", *(name for name in ("head", "tail") if name in known)]
    return [] if text == "none" else [name.strip() for name in text.split(",")]
