"""One training run, from a recipe to a run folder, that a person can read top to bottom.

Killed at any moment, it resumes from the last finished epoch (after SIGINT or SIGTERM: from
the very step) and ends with the same weights, on the CPU to the bit: the order of the samples
follows from seed and epoch alone, and every random state is in the checkpoint.
"""

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from saddlescope.curvature import CurvatureMonitor
from saddlescope.errors import DataError, Interrupted, SaddlescopeError, UsageError
from saddlescope.longtail import LongTailData
from saddlescope.runs import (
    METRIC_COLUMNS,
    RunFolder,
    one_writer,
    provenance,
    write_json,
    write_text,
)
from saddlescope.runs.tables import append_row, read_rows, rewrite_rows
from saddlescope.sharpness import SharpnessAware
from saddlescope.training.checkpoints import load_checkpoint, load_weights, save_checkpoint
from saddlescope.training.evaluate import evaluate
from saddlescope.training.network import recipe_network
from saddlescope.training.recipe import Recipe, first_difference, parse_recipe
from saddlescope.training.schedule import refuse_standing_still, step_size
from saddlescope.training.steps import Steps

_FORMAT = 2


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever shows it.

    Attributes:
        epoch, epochs: the current one, from 0, and how many there are.
        share: of the whole run done, in [0, 1].
        loss: mean training loss so far in this epoch; reading it makes a device wait.
        images_per_s: in this epoch.
        eta_s: seconds left.
    """

    epoch: int
    epochs: int
    share: float
    loss: Callable[[], float]
    images_per_s: float
    eta_s: float


def train(
    recipe: Recipe,
    data: LongTailData,
    folder: RunFolder,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    force: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda _: None,
    monitor: CurvatureMonitor | None = None,
) -> RunFolder:
    """Train one network and leave a run folder.

    Args:
        recipe: what to do.
        data: the data set the recipe names, loaded.
        folder: where to write; must not hold a run unless `resume` or `force`.
        device: where to compute.
        resume: go on with what is there; a finished run is left as it is.
        force: delete the run that is there.
        should_stop: asked after every step; True saves the state and raises.
        report: called after every step.
        monitor: measures curvature at the end of the epochs it is due in; its rows go to
            monitor.jsonl, and the weights are the same with and without it.

    Raises:
        UsageError: the folder holds a run, or another recipe's run, or another process trains it.
        Interrupted: `should_stop` said so; the state is on disk.
        SaddlescopeError: the loss became NaN or Inf; the last good checkpoint is kept.
    """
    refuse_standing_still(recipe.optimizer.schedule, recipe.training.epochs)
    run = _Run(recipe, data.to(device), folder, torch.device(device), monitor)
    with one_writer(folder.path):
        run.open(resume=resume, force=force)
        while run.epoch < recipe.training.epochs:
            run.train_epoch(should_stop, report)
            run.finish_epoch()
        run.note(state="finished")
    return folder


class _Run:
    """The state of one run: what a checkpoint holds, and how it advances."""

    def __init__(
        self,
        recipe: Recipe,
        data: LongTailData,
        folder: RunFolder,
        device: torch.device,
        monitor: CurvatureMonitor | None,
    ) -> None:
        self.monitor = monitor
        self.recipe, self.data, self.folder, self.device = recipe, data, folder, device
        options, method = recipe.optimizer, recipe.method
        self.epochs, self.seed = recipe.training.epochs, recipe.training.seed
        self.model = recipe_network(
            recipe, num_classes=data.num_classes, in_channels=data.in_channels
        ).to(device)
        self.radii = method.radii(self.epochs)
        self.optimizer = SharpnessAware(
            self.model.parameters(),
            torch.optim.SGD,
            radii=self.radii.at(0),
            model=self.model,
            bn_statistics=method.bn_statistics,
            lr=options.eta,
            momentum=options.momentum,
            nesterov=options.nesterov,
            weight_decay=options.weight_decay,
        )
        self.steps = Steps(recipe, data, self.model, self.optimizer, self.radii)
        self.epoch, self.position, self.best, self.seconds = 0, 0, -1.0, 0.0

    def open(self, *, resume: bool, force: bool) -> None:
        """Claim the folder: start a run, or take up the one that is there."""
        folder = self.folder
        if folder.exists() and force and not resume:
            shutil.rmtree(folder.path)
        if not folder.exists():
            if folder.path.is_dir() and any(folder.path.iterdir()):
                raise UsageError(f"{folder.path}: not empty and not a run folder; choose another")
            write_text(folder.recipe_file, self.recipe.to_toml())
            self._start_notes()
            return
        if not resume:
            raise UsageError(f"{folder.path}: holds a run already; pass --resume or --force")
        there = parse_recipe(folder.recipe(), origin=str(folder.recipe_file))
        if there != self.recipe:
            raise UsageError(
                f"{folder.path}: was started with another recipe "
                f"({first_difference(there, self.recipe)}); resume it with its own recipe.toml, "
                "or choose another folder"
            )
        if folder.run_file.is_file():
            self.note(state="running")
        else:
            self._start_notes()
        last = folder.checkpoint("last")
        if last.is_file():
            self._restore(load_checkpoint(last, device=self.device), origin=str(last))
        # Rows of epochs that will run again are dropped, so that none stands twice.
        step = self.position // self.recipe.optimizer.batch_size
        for path in (folder.metrics_file, folder.monitor_file, folder.norms_file):
            if path.is_file():
                # Only norms.jsonl has rows within an epoch; the others' are of a whole one.
                kept = [
                    row
                    for row in read_rows(path)
                    if (row.get("epoch", 0), row.get("step", math.inf)) < (self.epoch, step)
                ]
                rewrite_rows(path, kept)

    def train_epoch(
        self, should_stop: Callable[[], bool], report: Callable[[Progress], None]
    ) -> None:
        """Run the epoch from `position` to its end."""
        size = self.recipe.optimizer.batch_size
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.step_size
        order = self.steps.order(self.epoch)
        began, first = time.perf_counter(), self.position
        while self.position < len(order):
            self.steps.take(
                order[self.position : self.position + size], log_norms=self._norms_log(len(order))
            )
            self.position = min(self.position + size, len(order))
            seconds = time.perf_counter() - began
            speed = (self.position - first) / seconds
            left = (self.epochs - self.epoch) * len(order) - self.position
            report(
                Progress(
                    epoch=self.epoch,
                    epochs=self.epochs,
                    share=1.0 - left / (self.epochs * len(order)),
                    loss=lambda: self.steps.mean_loss,
                    images_per_s=speed,
                    eta_s=left / speed,
                )
            )
            if should_stop():
                self.seconds += seconds
                self._save("last")
                self.note(state="interrupted")
                raise Interrupted(
                    f"{self.folder.path}: stopped in epoch {self.epoch}; saved, go on with --resume"
                )
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - began

    def finish_epoch(self) -> None:
        """Measure, write the row, then the checkpoint: a kill between them costs one epoch."""
        training, epoch = self.recipe.training, self.epoch
        sums, counts = self.steps.sums.tolist(), self.steps.counts.tolist()
        loss = sum(sums) / sum(counts)
        if not math.isfinite(loss):
            self.note(state="diverged")
            raise SaddlescopeError(
                f"{self.folder.path}: the training loss became {loss} in epoch {epoch}; the last "
                "good checkpoint is kept. Lower optimizer.eta or the radii"
            )
        row: dict[str, Any] = dict.fromkeys(METRIC_COLUMNS)
        row |= {
            "epoch": epoch,
            "stage": self.radii.stage(epoch),
            "lr": self.step_size,
            "train_loss": loss,
            "loss_head": sums[0] / counts[0] if counts[0] else None,
            "loss_tail": sums[1] / counts[1] if counts[1] else None,
            "seconds": self.seconds,
            "images_per_s": sum(counts) / self.seconds,
        }
        if (epoch + 1) % training.evaluate_every == 0 or epoch + 1 == self.epochs:
            row |= evaluate(self.model, self.data)
        append_row(self.folder.metrics_file, row)
        if self.monitor is not None:
            for measured in self.monitor(self.model, epoch):
                append_row(self.folder.monitor_file, {"epoch": epoch, **measured.columns()})
        improved = row["acc_avg"] is not None and row["acc_avg"] > self.best
        if improved:
            self.best = row["acc_avg"]
        self.epoch, self.position, self.seconds = epoch + 1, 0, 0.0
        self.steps.begin(self.epoch)
        if improved:
            self._save("best")
        if training.checkpoint_every and (epoch + 1) % training.checkpoint_every == 0:
            self._save(str(epoch))
        self._save("last")

    def note(self, *, state: str) -> None:
        """Write the state into run.json."""
        write_json(self.folder.run_file, self.folder.run() | {"state": state})

    @property
    def step_size(self) -> float:
        """η of the current epoch."""
        options = self.recipe.optimizer
        return step_size(options.eta, options.schedule, self.epoch, self.epochs)

    def _norms_log(self, samples: int) -> Callable[[dict[str, Any]], None] | None:
        """Where the next step's gradient norms go; None where they are not asked for."""
        every, size = self.recipe.training.norms_every, self.recipe.optimizer.batch_size
        step = self.position // size
        if not every or (self.epoch * math.ceil(samples / size) + step) % every:
            return None
        place = {"epoch": self.epoch, "step": step}
        return lambda row: append_row(self.folder.norms_file, place | row)

    def _save(self, which: str) -> None:
        save_checkpoint(
            self.folder.checkpoint(which),
            {
                "format": _FORMAT,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epoch": self.epoch,
                "position": self.position,
                "best": self.best,
                "steps": self.steps.state_dict(),
                "seconds": self.seconds,
                "rng": torch.get_rng_state(),
                "rng_cuda": torch.cuda.get_rng_state(self.device)
                if self.device.type == "cuda"
                else None,
                "monitor": self.monitor.state_dict() if self.monitor else {},
                "recipe": self.recipe.to_toml(),
            },
        )

    def _restore(self, content: dict[str, Any], *, origin: str) -> None:
        if content.get("format") != _FORMAT:
            raise DataError(f"{origin}: not a training checkpoint of this version of saddlescope")
        load_weights(self.model, content, origin=origin)
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.position = content["epoch"], content["position"]
        self.best, self.seconds = content["best"], content["seconds"]
        self.steps.load_state_dict(content["steps"], epoch=self.epoch)
        if self.monitor is not None:
            self.monitor.load_state_dict(content.get("monitor", {}))
        torch.set_rng_state(content["rng"].cpu())
        if content["rng_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(content["rng_cuda"].cpu(), self.device)

    def _start_notes(self) -> None:
        groups = {name: list(classes) for name, classes in self.data.groups.items()}
        content = {
            "state": "running",
            "method": self.recipe.method.name,
            "loss": self.recipe.loss.name,
            "seed": self.seed,
            "epochs": self.epochs,
            "switch_epoch": self.radii.switch_epoch,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "data": {
                "name": self.data.name,
                "counts": list(self.data.counts),
                "groups": groups,
                "class_names": list(self.data.class_names),
                "checksum": self.data.checksum,
            },
            "monitor": self.monitor.settings() if self.monitor else None,
            "provenance": provenance(device=str(self.device), seed=self.seed),
        }
        write_json(self.folder.run_file, content)
