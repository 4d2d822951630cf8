"""One training run, from a recipe to a run folder, that a person can read top to bottom.

Killed at any moment, it resumes from the last finished epoch (after SIGINT or SIGTERM: from
the very step) and ends with the same weights, on the CPU to the bit: the order of the samples
follows from seed and epoch alone, and every random state is in the checkpoint. Several ranks of a
torch.distributed group share each batch; rank 0 alone writes, all read the folder.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saddlescope.curvature import ALONE, CurvatureMonitor, Ranks
from saddlescope.errors import DataError, Interrupted, SaddlescopeError, UsageError
from saddlescope.longtail import LongTailData
from saddlescope.runs import METRIC_COLUMNS, RunFolder, one_writer, provenance
from saddlescope.sharpness import SharpnessAware
from saddlescope.training.branching import APART, Branching, keep_best, take_over
from saddlescope.training.captured import CapturedSteps, base_options, refuse_capture, set_step_size
from saddlescope.training.checkpoints import load_checkpoint, load_weights, save_checkpoint
from saddlescope.training.evaluate import evaluate, training_losses
from saddlescope.training.losses import epoch_loss
from saddlescope.training.network import average_statistics, training_network
from saddlescope.training.recipe import Recipe
from saddlescope.training.record import RunRecord
from saddlescope.training.schedule import refuse_standing_still, step_size
from saddlescope.training.state import refuse_other_shapes, state_of_a_run, whole_number
from saddlescope.training.steps import Steps

_FORMAT = 2
_AGREE_EVERY = 16
"""Steps after which several ranks agree on whether to stop: asking makes devices wait."""


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


def training(
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
    start: Mapping[str, Tensor] | None = None,
    branching: Branching = APART,
    ranks: Ranks = ALONE,
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Iterator[None]:
    """Do what `train` does, and stop for others after every step; arguments and errors are its own.

    The arithmetic is left to the caller.
    """
    if recipe.trains:
        refuse_standing_still(recipe.optimizer.schedule, recipe.training.epochs)
    if recipe.training.captured:
        refuse_capture(recipe, data, processes=ranks.size)
    if recipe.training.norms_every and ranks.size > 1:
        raise UsageError("training.norms_every looks at whole batches: train with one process")
    if recipe.decoupling is not None and start is None and not folder.exists():
        raise UsageError("a second stage needs the weights of the first: saddlescope train --from")
    run = _Run(
        recipe, data.to(device), folder, torch.device(device), monitor, ranks, start, branching
    )
    with one_writer(folder.path) if run.leads else contextlib.nullcontext():
        run.open(resume=resume, force=force)
        while run.epoch < recipe.training.epochs:
            if recipe.trains:
                yield from run.train_epoch(should_stop, report)
            row = run.finish_epoch()
            if run.leads:
                on_epoch(row)
        run.record.note(state="finished")


class _Run:
    """The state of one run: what a checkpoint holds, and how it advances."""

    def __init__(
        self,
        recipe: Recipe,
        data: LongTailData,
        folder: RunFolder,
        device: torch.device,
        monitor: CurvatureMonitor | None,
        ranks: Ranks,
        start: Mapping[str, Tensor] | None,
        branching: Branching,
    ) -> None:
        self.branching = branching
        self.monitor, self.ranks, self.leads = monitor, ranks, ranks.rank == 0
        self.record = RunRecord(folder, recipe, data, writes=self.leads)
        self.recipe, self.data, self.folder, self.device = recipe, data, folder, device
        options, method = recipe.optimizer, recipe.method
        self.epochs, self.seed = recipe.training.epochs, recipe.training.seed
        self.model = training_network(
            recipe,
            num_classes=data.num_classes,
            in_channels=data.in_channels,
            device=device,
            ranks=ranks,
            start=start,
        )
        self.radii = method.radii(self.epochs)
        self.optimizer = SharpnessAware(
            [p for p in self.model.parameters() if p.requires_grad],
            torch.optim.SGD,
            radii=self.radii.at(0),
            model=self.model,
            bn_statistics=method.bn_statistics,
            total=None if ranks.size == 1 else ranks.total,
            clip=options.clip,
            **base_options(recipe, device),
            momentum=options.momentum,
            nesterov=options.nesterov,
            weight_decay=options.weight_decay,
        )
        parts = recipe, data, self.model, self.optimizer, self.radii
        captured = recipe.training.captured and recipe.trains
        self.steps = CapturedSteps(*parts) if captured else Steps(*parts, ranks=ranks)
        self.epoch, self.position, self.best, self.seconds = 0, 0, -1.0, 0.0
        self.taken = 0  # steps of this process, which may have begun in the middle of an epoch

    def open(self, *, resume: bool, force: bool) -> None:
        """Claim the folder: start a run, or take up the one that is there."""
        trunk = self.branching.trunk
        notes = {
            "switch_epoch": self.radii.switch_epoch,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "monitor": self.monitor.settings() if self.monitor else None,
            "branch": {"run": trunk.folder.name, "epochs": trunk.epochs} if trunk else None,
            "provenance": provenance(device=str(self.device), seed=self.seed),
        }
        self.record.claim(notes, resume=resume, force=force)
        self.ranks.totals(0.0)  # rank 0 has looked, and the others may
        last = self.folder.checkpoint("last")
        if last.is_file():
            self._restore(load_checkpoint(last, device=self.device), origin=str(last))
        elif trunk is not None:
            if self.leads:
                take_over(trunk, self.folder, self.recipe, checksum=self.data.checksum)
            content = load_checkpoint(trunk.checkpoint, device=self.device)
            self._restore(content, origin=str(trunk.checkpoint))
            self._save("last")
        elif self.recipe.decoupling is not None:
            self._save("last")  # from here on the first stage is not asked for again
        self.record.drop_rows(self.epoch, self.position // self.recipe.optimizer.batch_size)

    def train_epoch(
        self, should_stop: Callable[[], bool], report: Callable[[Progress], None]
    ) -> Iterator[None]:
        """Run the epoch from `position` to its end, and stop for others after every step."""
        size = self.recipe.optimizer.batch_size
        # A second stage leaves BatchNorm as the first one left it.
        self.model.train(self.recipe.decoupling is None)
        set_step_size(self.optimizer, self.step_size)
        order = self.steps.order(self.epoch)
        began, first = time.perf_counter(), self.position
        batches = order[first:].split(size) if first < len(order) else ()
        for indices, images in zip(batches, self.steps.images(batches), strict=True):
            self.steps.take(indices, images, log_norms=self._norms_log(len(order)))
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
            if self._agreed(should_stop):
                self.seconds += seconds
                self._save("last")
                self.record.note(state="interrupted")
                raise Interrupted(
                    f"{self.folder.path}: stopped in epoch {self.epoch}; saved, go on with --resume"
                )
            yield
        if self.device.type == "cuda":  # this run's work, not that of others beside it
            torch.cuda.current_stream(self.device).synchronize()
        self.seconds += time.perf_counter() - began

    def finish_epoch(self) -> dict[str, Any]:
        """Measure, write the row, then the checkpoint: a kill between them costs one epoch.

        Returns:
            The row of metrics.jsonl.
        """
        training, epoch = self.recipe.training, self.epoch
        average_statistics(self.model, self.ranks)
        found = self._epoch_losses()
        loss, images = found["train_loss"], int(self.steps.counts.sum())
        if not math.isfinite(loss):
            self.record.note(state="diverged")
            last = self.folder.checkpoint("last").is_file()
            kept = "last.pt, from before, is kept" if last else "there is no checkpoint yet"
            raise SaddlescopeError(
                f"{self.folder.path}: the training loss became {loss} in epoch {epoch}; {kept}. "
                "Lower optimizer.eta or the radii"
            )
        row: dict[str, Any] = dict.fromkeys(METRIC_COLUMNS)
        row |= {
            "epoch": epoch,
            "stage": self.radii.stage(epoch),
            "lr": self.step_size,
            **found,
            "seconds": self.seconds,
            "images_per_s": images / self.seconds if self.seconds else None,
        }
        if (epoch + 1) % training.evaluate_every == 0 or epoch + 1 == self.epochs:
            row |= evaluate(self.model, self.data, ranks=self.ranks)
        self.record.append(self.folder.metrics_file, row)
        if training.losses_every and (epoch + 1) % training.losses_every == 0:
            self.record.append(self.folder.losses_file, {"epoch": epoch, **self._fixed_losses()})
        if self.monitor is not None:
            for measured in self.monitor(self.model, epoch):
                self.record.append(self.folder.monitor_file, {"epoch": epoch, **measured.columns()})
        improved = row["acc_avg"] is not None and row["acc_avg"] > self.best
        if improved:
            self.best = row["acc_avg"]
        self.epoch, self.position, self.seconds = epoch + 1, 0, 0.0
        self.steps.begin(self.epoch)
        if improved:
            self._save("best")
        every, branch = training.checkpoint_every, epoch in self.branching.keep
        if branch or (every and (epoch + 1) % every == 0):
            self._save(str(epoch))
        if branch and self.leads:
            keep_best(self.folder, self.epoch)
        self._save("last")
        return row

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
        return lambda row: self.record.append(self.folder.norms_file, place | row)

    def _agreed(self, should_stop: Callable[[], bool]) -> bool:
        """Whether to stop here; several ranks stop at the same step."""
        if self.ranks.size == 1:
            return should_stop()
        self.taken += 1
        return self.taken % _AGREE_EVERY == 0 and self.ranks.any(should_stop())

    def _epoch_losses(self) -> dict[str, Any]:
        """The loss columns of metrics.jsonl."""
        if not self.recipe.trains:
            found = self._fixed_losses()
            return {"train_loss": found["loss"]} | {
                key: found[key] for key in ("loss_head", "loss_tail")
            }
        sums, counts = (
            self.ranks.total(self.steps.sums.clone()).tolist(),
            self.steps.counts.tolist(),
        )
        return {
            "train_loss": sum(sums) / sum(counts),
            "loss_head": sums[0] / counts[0] if counts[0] else None,
            "loss_tail": sums[1] / counts[1] if counts[1] else None,
        }

    def _fixed_losses(self) -> dict[str, float]:
        criterion = epoch_loss(self.recipe, self.data, self.epoch, reduction="none")
        return training_losses(self.model, criterion, self.data, ranks=self.ranks)

    def _save(self, which: str) -> None:
        average_statistics(self.model, self.ranks)
        steps = self.steps.state_dict()
        if not self.leads:
            return
        save_checkpoint(
            self.folder.checkpoint(which),
            {
                "format": _FORMAT,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epoch": self.epoch,
                "position": self.position,
                "best": self.best,
                "steps": steps,
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
        with state_of_a_run(origin):
            self.optimizer.load_state_dict(content["optimizer"])
            refuse_other_shapes(self.optimizer.base)
            self.epoch = whole_number(content["epoch"], most=self.epochs)
            self.position = whole_number(content["position"], most=len(self.data.train))
            self.best, self.seconds = float(content["best"]), float(content["seconds"])
            self.steps.load_state_dict(content["steps"], epoch=self.epoch)
            if self.monitor is not None:
                self.monitor.load_state_dict(content.get("monitor", {}))
            torch.set_rng_state(content["rng"].cpu())
            if content["rng_cuda"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(content["rng_cuda"].cpu(), self.device)
