"""An epoch of a run: its steps, and what is measured, written and kept at its end."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from saddlescope.errors import Interrupted, SaddlescopeError
from saddlescope.runs import METRIC_COLUMNS
from saddlescope.training.captured import set_step_size
from saddlescope.training.evaluate import evaluate, training_losses
from saddlescope.training.keeping import keep, keep_finished_epoch
from saddlescope.training.losses import epoch_loss
from saddlescope.training.network import average_statistics
from saddlescope.training.run import Run
from saddlescope.training.schedule import step_size

_AGREE_EVERY = 16
"""Steps after which several ranks agree on whether to stop: asking makes devices wait."""


def take_steps(run: Run) -> Iterator[None]:
    """Take the steps from where the state stands to the end of its epoch, and yield after each.

    Raises:
        Interrupted: a stop was asked for; the state is on disk.
    """
    state, steps = run.state, run.state.steps
    size, epochs = steps.recipe.optimizer.batch_size, steps.recipe.training.epochs
    # A second stage leaves BatchNorm as the first one left it.
    state.model.train(steps.recipe.decoupling is None)
    set_step_size(steps.optimizer, _eta(run))
    order = steps.order(state.epoch)
    run.pace.begin()
    began, first = time.perf_counter(), state.position
    batches = order[first:].split(size) if first < len(order) else ()
    ready = steps.images(batches, before=order[:first])
    for indices, images in zip(batches, ready, strict=True):
        steps.take(indices, images, log_norms=_norms_log(run))
        state.position = min(state.position + size, len(order))
        run.pace.add(len(indices), kind=(steps.radii.stage(state.epoch), len(indices)))
        left = (epochs - state.epoch) * len(order) - state.position
        share = 1.0 - left / (epochs * len(order))
        run.stage.update(share, partial(_words, run), left=left / run.pace.speed)
        if _stops(run):
            state.seconds += time.perf_counter() - began
            keep(run, "last")
            run.record.note(state="interrupted")
            raise Interrupted(
                f"{run.record.folder.path}: stopped in epoch {state.epoch}; saved, go on with "
                "--resume"
            )
        yield
    device = steps.data.train.device
    if device.type == "cuda":  # this run's work, not that of others beside it
        torch.cuda.current_stream(device).synchronize()
    state.seconds += time.perf_counter() - began


def finish_epoch(run: Run) -> dict[str, Any]:
    """Measure, write the row, then the checkpoint: a kill between them costs one epoch.

    Returns:
        The row of metrics.jsonl.

    Raises:
        SaddlescopeError: the training loss is not finite.
    """
    state, record, ranks = run.state, run.record, run.options.ranks
    steps, epoch, folder = state.steps, state.epoch, record.folder
    recipe, training = steps.recipe, steps.recipe.training
    average_statistics(state.model, ranks)
    losses = _epoch_losses(run) if recipe.trains else _fixed_losses(run)
    if not math.isfinite(losses["loss"]):
        record.note(state="diverged")
        last = folder.checkpoint("last").is_file()
        kept = "last.pt, from before, is kept" if last else "there is no checkpoint yet"
        raise SaddlescopeError(
            f"{folder.path}: the training loss became {losses['loss']} in epoch {epoch}; {kept}. "
            "Lower optimizer.eta or the radii"
        )
    images = int(steps.counts.sum())
    row: dict[str, Any] = dict.fromkeys(METRIC_COLUMNS)
    row |= {
        "epoch": epoch,
        "stage": steps.radii.stage(epoch),
        "lr": _eta(run),
        "train_loss": losses["loss"],
        "loss_head": losses["loss_head"],
        "loss_tail": losses["loss_tail"],
        "seconds": state.seconds,
        "images_per_s": images / state.seconds if state.seconds else None,
    }
    if (epoch + 1) % training.evaluate_every == 0 or epoch + 1 == training.epochs:
        row |= evaluate(state.model, steps.data, ranks=ranks)
    record.append(folder.metrics_file, row)
    if training.losses_every and (epoch + 1) % training.losses_every == 0:
        record.append(folder.losses_file, {"epoch": epoch, **_fixed_losses(run)})
    if state.monitor is not None:
        for measured in state.monitor(state.model, epoch):
            record.append(folder.monitor_file, {"epoch": epoch, **measured.columns()})
    improved = row["acc_avg"] is not None and row["acc_avg"] > state.best
    if improved:
        state.best = row["acc_avg"]
    state.begin_next_epoch()
    keep_finished_epoch(run, improved=improved)
    return row


def _words(run: Run) -> str:
    """What a run says of itself while it is watched; reading the loss makes a device wait."""
    state, speed = run.state, run.pace.speed
    epochs = state.steps.recipe.training.epochs
    words = f"epoch {state.epoch + 1}/{epochs}  loss {state.steps.mean_loss:.4f}"
    return words if math.isnan(speed) else f"{words}  {speed:.0f} images/s"


def _eta(run: Run) -> float:
    recipe = run.state.steps.recipe
    options = recipe.optimizer
    return step_size(options.eta, options.schedule, run.state.epoch, recipe.training.epochs)


def _norms_log(run: Run) -> Callable[[dict[str, Any]], None] | None:
    """Where the next step's gradient norms go; None where they are not asked for."""
    state, every = run.state, run.state.steps.recipe.training.norms_every
    if not every or state.step % every:
        return None
    place = {"epoch": state.epoch, "step": state.step_in_epoch}
    return lambda row: run.record.append(run.record.folder.norms_file, place | row)


def _stops(run: Run) -> bool:
    """Whether to stop here; several ranks stop at the same step."""
    ranks, should_stop = run.options.ranks, run.options.should_stop
    if ranks.size == 1:
        return should_stop()
    return run.state.step % _AGREE_EVERY == 0 and ranks.any(should_stop())


def _epoch_losses(run: Run) -> dict[str, Any]:
    """Means over the samples that all ranks saw in this epoch."""
    steps = run.state.steps
    sums = run.options.ranks.total(steps.sums.clone()).tolist()
    counts = steps.counts.tolist()
    return {
        "loss": sum(sums) / sum(counts),
        "loss_head": sums[0] / counts[0] if counts[0] else None,
        "loss_tail": sums[1] / counts[1] if counts[1] else None,
    }


def _fixed_losses(run: Run) -> dict[str, float]:
    """Means and sums over all training images at the present weights."""
    state, steps = run.state, run.state.steps
    criterion = epoch_loss(steps.recipe, steps.data, state.epoch, reduction="none")
    return training_losses(state.model, criterion, steps.data, ranks=run.options.ranks)
