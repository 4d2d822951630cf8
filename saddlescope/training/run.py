"""A run under way: what it is told, what it has come to, and what it leaves behind."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.curvature import CurvatureMonitor
from saddlescope.errors import DataError
from saddlescope.parallel import ALONE, Ranks
from saddlescope.stages import Pace, Stage
from saddlescope.training.branching import APART, Branching
from saddlescope.training.checkpoints import load_weights
from saddlescope.training.record import RunRecord
from saddlescope.training.state import refuse_other_shapes, state_of_a_run, whole_number
from saddlescope.training.steps import Steps

_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run beside recipe, data and folder.

    Attributes:
        device: where to compute.
        resume: go on with what is there; a finished run is left as it is.
        force: delete the run that is there.
        should_stop: asked after every step; True saves the state and raises.
        on_epoch: called with each new row of metrics.jsonl, on rank 0.
        monitor: measures curvature at the end of the epochs it is due in; its rows go to
            monitor.jsonl, and the weights are the same with and without it. Under ranks its samples
            must be shared by them.
        start: weights of the first stage, where the recipe has a second (`[decoupling]`); of no
            use to a run that is there already.
        branching: another run to go on from, and what to keep for others that go on from here.
        ranks: the processes that share each batch. The losses are those of one process within
            rounding, but for BatchNorm that sees a rank's part alone.
    """

    device: torch.device | str = "cpu"
    resume: bool = False
    force: bool = False
    should_stop: Callable[[], bool] = lambda: False
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None
    monitor: CurvatureMonitor | None = None
    start: Mapping[str, Tensor] | None = None
    branching: Branching = APART
    ranks: Ranks = ALONE


@dataclass
class RunState:
    """The state that a run has come to: all that a checkpoint holds.

    Attributes:
        steps: with the network, its optimiser, and what the log of the epoch adds up.
        monitor: of the run.
        epoch: the current one, from 0.
        position: samples of the epoch that are done.
        best: the highest accuracy so far; -1 before there is one.
        seconds: that the steps of this epoch have taken.
    """

    steps: Steps
    monitor: CurvatureMonitor | None = None
    epoch: int = 0
    position: int = 0
    best: float = -1.0
    seconds: float = 0.0

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.steps.model

    @property
    def step_in_epoch(self) -> int:
        """Steps taken in this epoch."""
        return math.ceil(self.position / self.steps.recipe.optimizer.batch_size)

    @property
    def step(self) -> int:
        """Steps taken in the whole run."""
        size = self.steps.recipe.optimizer.batch_size
        return self.epoch * math.ceil(len(self.steps.data.train) / size) + self.step_in_epoch

    def begin_next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch, self.position, self.seconds = self.epoch + 1, 0, 0.0
        self.steps.begin(self.epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the content of a checkpoint; all ranks call it: their sums are added up."""
        device = self.steps.data.train.device
        return {
            "format": _FORMAT,
            "model": self.model.state_dict(),
            "optimizer": self.steps.optimizer.state_dict(),
            "epoch": self.epoch,
            "position": self.position,
            "best": self.best,
            "steps": self.steps.state_dict(),
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "monitor": self.monitor.state_dict() if self.monitor else {},
            "recipe": self.steps.recipe.to_toml(),
        }

    def load_state_dict(self, content: dict[str, Any], *, origin: str) -> None:
        """Take up the content of a checkpoint.

        Raises:
            DataError: not one of this run's; it says so of `origin`.
        """
        if content.get("format") != _FORMAT:
            raise DataError(f"{origin}: not a training checkpoint of this version of saddlescope")
        load_weights(self.model, content, origin=origin)
        recipe, data, optimizer = self.steps.recipe, self.steps.data, self.steps.optimizer
        with state_of_a_run(origin):
            optimizer.load_state_dict(content["optimizer"])
            refuse_other_shapes(optimizer.base)
            self.epoch = whole_number(content["epoch"], most=recipe.training.epochs)
            self.position = whole_number(content["position"], most=len(data.train))
            self.best, self.seconds = float(content["best"]), float(content["seconds"])
            self.steps.load_state_dict(content["steps"], epoch=self.epoch)
            if self.monitor is not None:
                self.monitor.load_state_dict(content.get("monitor", {}))
            torch.set_rng_state(content["rng"].cpu())
            if content["rng_cuda"] is not None and data.train.device.type == "cuda":
                torch.cuda.set_rng_state(content["rng_cuda"].cpu(), data.train.device)


@dataclass(frozen=True)
class Run:
    """A run under way.

    Attributes:
        options: what it is told.
        state: what it has come to.
        record: what it leaves behind.
        stage: where whoever watches is told of it.
        pace: in images a second; steps of another stage or size are of another kind.
    """

    options: RunOptions
    state: RunState
    record: RunRecord
    stage: Stage
    pace: Pace = field(default_factory=Pace)
