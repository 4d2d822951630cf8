"""One training run, from a recipe to a run folder, that a person can read top to bottom.

Killed at any moment, it resumes from the last finished epoch (after SIGINT or SIGTERM: from
the very step) and ends with the same weights, on the CPU to the bit: the order of the samples
follows from seed and epoch alone, and every random state is in the checkpoint. Several ranks of a
torch.distributed group share each batch; rank 0 alone writes, all read the folder.

A `Run` has three parts: what it is told (`run.RunOptions`), what it has come to (`run.RunState`)
and what it leaves behind (`record`). `epoch` takes the steps, `keeping` writes the checkpoints.
"""

import contextlib
from collections.abc import Iterator

import torch

from saddlescope.errors import UsageError
from saddlescope.longtail import LongTailData
from saddlescope.runs import RunFolder, one_writer
from saddlescope.sharpness import SharpnessAware, StepOptions
from saddlescope.stages import Stage
from saddlescope.training.arithmetic import arithmetic
from saddlescope.training.captured import CapturedSteps, base_options, refuse_capture
from saddlescope.training.decoupling import refuse_no_first_stage
from saddlescope.training.epoch import finish_epoch, take_steps
from saddlescope.training.keeping import take_up
from saddlescope.training.network import refuse_parts_of_one, training_network
from saddlescope.training.recipe import Recipe
from saddlescope.training.record import RunRecord
from saddlescope.training.run import Run, RunOptions, RunState
from saddlescope.training.schedule import refuse_standing_still
from saddlescope.training.steps import Steps


def train(
    recipe: Recipe, data: LongTailData, folder: RunFolder, options: RunOptions | None = None
) -> RunFolder:
    """Train one network and leave a run folder.

    Args:
        recipe: what to do.
        data: the data set the recipe names, loaded.
        folder: where to write; must not hold a run unless the options say `resume` or `force`.
        options: how it is carried out; None takes the defaults.

    Raises:
        UsageError: the folder holds a run, or another recipe's run, or another process trains it; a
            second stage without a first.
        DataError: the trunk was trained on other data.
        Interrupted: `should_stop` said so; the state is on disk.
        SaddlescopeError: the loss became NaN or Inf; the checkpoint before it, if any, is kept.
    """
    with arithmetic(recipe.training):
        for _ in training(recipe, data, folder, options):
            pass
    return folder


def training(
    recipe: Recipe, data: LongTailData, folder: RunFolder, options: RunOptions | None = None
) -> Iterator[None]:
    """Do what `train` does, and stop for others after every step; arguments and errors are its own.

    The arithmetic is left to the caller.
    """
    options = options or RunOptions()
    _refuse_what_cannot_be(recipe, data, folder, options)
    data, leads = data.to(options.device), options.ranks.rank == 0
    run = Run(
        options=options,
        state=RunState(_steps(recipe, data, options), options.monitor),
        record=RunRecord(folder, recipe, data, writes=leads),
        stage=Stage(folder.name),
    )
    with one_writer(folder.path) if leads else contextlib.nullcontext(), run.stage:
        take_up(run)
        while run.state.epoch < recipe.training.epochs:
            if recipe.trains:
                yield from take_steps(run)
            row = finish_epoch(run)
            if leads:
                options.on_epoch(row)
        run.record.note(state="finished")


def _refuse_what_cannot_be(
    recipe: Recipe, data: LongTailData, folder: RunFolder, options: RunOptions
) -> None:
    if recipe.trains:
        refuse_standing_still(recipe.optimizer.schedule, recipe.training.epochs)
    if recipe.training.captured:
        refuse_capture(recipe, data, processes=options.ranks.size)
    if recipe.training.norms_every and options.ranks.size > 1:
        raise UsageError("training.norms_every looks at whole batches: train with one process")
    if recipe.decoupling is not None:
        refuse_no_first_stage(recipe.decoupling, folder, options.start, force=options.force)


def _steps(recipe: Recipe, data: LongTailData, options: RunOptions) -> Steps:
    """Network and optimiser as the recipe wants them, and who takes the steps."""
    device, ranks, base = torch.device(options.device), options.ranks, recipe.optimizer
    if recipe.trains and recipe.decoupling is None:  # a second stage leaves BatchNorm alone
        refuse_parts_of_one(
            recipe,
            lambda: next(iter(data.train.batches([torch.tensor([0])]))),
            samples=len(data.train),
            num_classes=data.num_classes,
            ranks=ranks.size,
        )
    model = training_network(
        recipe,
        num_classes=data.num_classes,
        in_channels=data.in_channels,
        device=device,
        ranks=ranks,
        start=options.start,
    )
    radii = recipe.method.radii(recipe.training.epochs)
    optimizer = SharpnessAware(
        [p for p in model.parameters() if p.requires_grad],
        torch.optim.SGD,
        radii=radii.at(0),
        step=StepOptions(
            clip=base.clip,
            model=model,
            bn_statistics=recipe.method.bn_statistics,
            total=None if ranks.size == 1 else ranks.total,
        ),
        **base_options(recipe, device),
        momentum=base.momentum,
        nesterov=base.nesterov,
        weight_decay=base.weight_decay,
    )
    parts = recipe, data, model, optimizer, radii
    captured = recipe.training.captured and recipe.trains
    return CapturedSteps(*parts) if captured else Steps(*parts, ranks=ranks)
