"""Find what several commands are to measure: a run folder, or a network from elsewhere."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saddlescope.cli.completion import CHECKPOINTS, GROUPS, one_of, some_of
from saddlescope.errors import UsageError

if TYPE_CHECKING:
    import torch

    from saddlescope.curvature import Grouping
    from saddlescope.measurement import Target


class Split(StrEnum):
    """Which samples."""

    TRAIN = "train"
    TEST = "test"


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
WhichSplit = Annotated[
    Split, typer.Option(help="train or test; with --model only what the table calls the data.")
]
WhichCriterion = Annotated[
    str,
    typer.Option(
        help="ce; training for the loss the network was trained with; with --model also "
        "package.module:criterion.",
        autocompletion=one_of(("ce", "training")),
    ),
]
WhichGroups = Annotated[
    str | None,
    typer.Option(
        help="all, head, tail, many, medium, few; or none. With --model also a key of the batch, "
        "or package.module:name of a function of a sample or of lists of positions. By default "
        "all, and head and tail where the data set tells them apart.",
        show_default=False,
        autocompletion=some_of(GROUPS),
    ),
]
Entry = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="With --model: key of the checkpoint, or first part of the names, under which the "
        "weights stand, such as state_dict_ema.",
        show_default=False,
    ),
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
    entry: str | None,
    groups: "list[Grouping] | None",
    data_root: Path | None,
    device: "torch.device",
) -> "tuple[Target, Path | None]":
    """Return the target asked for, and where its table belongs.

    Args:
        run: a run folder, or None.
        model: of a network from elsewhere, or None.
        data: to go with it.
        checkpoint: of the run, or a file of weights.
        split: train or test.
        criterion: ce, training, or a criterion's import path.
        entry: where the weights stand in the file.
        groups: those asked for, which the data are read with.
        data_root: folder of the data sets.
        device: where to compute.
    """
    from saddlescope.measurement import foreign_target, run_target
    from saddlescope.runs import RunFolder

    if (run is None) == (model is None):
        raise UsageError("give a run folder, or --model with --data: one of the two")
    if run is not None:
        if data is not None:
            raise UsageError("--data goes with --model; a run folder knows its own data")
        if entry is not None:
            raise UsageError("--entry goes with --model; a run folder knows its own checkpoints")
        if not all(isinstance(group, str) for group in groups or ()):
            raise UsageError("--groups package.module:name goes with --model; give names of groups")
        folder = RunFolder(run)
        target = run_target(
            folder, checkpoint=checkpoint, split=split, criterion=criterion, device=device,
            data_root=data_root,
        )  # fmt: skip
        return target, folder.spectrum_file(target.identity["checkpoint"], split)
    if data is None:
        raise UsageError("--model needs --data package.module:dataset")
    if criterion == "training":
        raise UsageError("--criterion training is known of run folders only")
    assert model is not None
    if checkpoint == "last" and entry is not None:
        raise UsageError("--entry needs --checkpoint: it says where in the file the weights stand")
    target = foreign_target(
        model,
        data,
        checkpoint=None if checkpoint == "last" else Path(checkpoint),
        entry=entry,
        criterion=criterion,
        groups=groups or (),
        device=device,
    )
    # Only a word for the table: the data are what --data says.
    return replace(target, identity=target.identity | {"split": split}), None


def asked_groups(text: str | None) -> "list[Grouping] | None":
    """Return the groups asked for, those from import paths loaded; None where nobody asked."""
    if text is None:
        return None
    names = [] if text.strip() in ("", "none") else [name.strip() for name in text.split(",")]
    return [_grouping(name) if ":" in name else name for name in names]


def _grouping(path: str) -> "Grouping":
    from saddlescope.measurement import imported

    found: Grouping = imported(path, "--groups")
    if not (callable(found) or isinstance(found, Mapping)):
        raise UsageError(
            f"--groups {path}: is a {type(found).__name__}; expected a function of a sample, or a "
            "mapping from names to positions"
        )
    return found


def usual_groups(target: "Target") -> list[str]:
    """Return the groups that are measured where nobody asks: those that this data set has."""
    known = getattr(target.samples, "groups", {})
    return ["all", *(name for name in ("head", "tail") if name in known)]


def pixels(target: "Target") -> int:
    """Return the pixels of one of its images; 0 of samples that are none."""
    import torch

    first = target.samples.inputs(torch.zeros(1, dtype=torch.int64))
    shape = tuple(getattr(first, "shape", ()))
    return int(shape[2] * shape[3]) if len(shape) == 4 else 0
