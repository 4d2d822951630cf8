"""The state of a run on disk: taken up when a run begins, and kept while it goes on."""

from typing import Any

import torch

from saddlescope.runs import provenance
from saddlescope.training.branching import keep_best, refuse_other_monitor, take_over
from saddlescope.training.checkpoints import load_checkpoint, save_checkpoint
from saddlescope.training.network import average_statistics
from saddlescope.training.run import Run


def take_up(run: Run) -> None:
    """Claim the folder, and start a run or take up the one that is there or that it branches from.

    Raises:
        UsageError, DataError: see `train`.
    """
    state, options, record = run.state, run.options, run.record
    trunk, steps = options.branching.trunk, state.steps
    device, training = steps.data.train.device, steps.recipe.training
    notes: dict[str, Any] = {
        "switch_epoch": steps.radii.switch_epoch,
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "monitor": options.monitor.settings() if options.monitor else None,
        "branch": {"run": trunk.folder.name, "epochs": trunk.epochs} if trunk else None,
        "provenance": provenance(device=str(torch.device(options.device)), seed=training.seed),
    }
    last = record.folder.checkpoint("last")
    if trunk is not None and (options.force or not last.is_file()):
        refuse_other_monitor(trunk, notes["monitor"])
    record.claim(notes, resume=options.resume, force=options.force)
    options.ranks.totals(0.0)  # rank 0 has looked, and the others may
    if last.is_file():
        state.load_state_dict(load_checkpoint(last, device=device), origin=str(last))
    elif trunk is not None:
        if record.writes:
            take_over(trunk, record.folder, steps.recipe, checksum=steps.data.checksum)
        content = load_checkpoint(trunk.checkpoint, device=device)
        state.load_state_dict(content, origin=str(trunk.checkpoint))
        keep(run, "last")
    elif steps.recipe.decoupling is not None:
        keep(run, "last")  # from here on the first stage is not asked for again
    record.drop_rows(state.epoch, state.step_in_epoch)


def keep(run: Run, which: str) -> None:
    """Write the state as the checkpoint of this name; all ranks call it."""
    average_statistics(run.state.model, run.options.ranks)
    content = run.state.state_dict()
    if run.record.writes:
        run.record.refuse_removed()
        save_checkpoint(run.record.folder.checkpoint(which), content)


def keep_finished_epoch(run: Run, *, improved: bool) -> None:
    """Write what is kept when an epoch has ended and the state stands at the next one's beginning.

    Args:
        run: all of it.
        improved: whether the epoch had the best accuracy so far.
    """
    finished = run.state.epoch - 1
    every, branches = run.state.steps.recipe.training.checkpoint_every, run.options.branching.keep
    if improved:
        keep(run, "best")
    if finished in branches or (every and run.state.epoch % every == 0):
        keep(run, str(finished))
    if finished in branches and run.record.writes:
        keep_best(run.record.folder, run.state.epoch)
    keep(run, "last")
