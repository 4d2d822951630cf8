"""Curvature along somebody else's training, written where the other curves are.

    curves = CurvatureLog(monitor, to=[SummaryWriter("runs"), "curvature.csv"])

    curves(model, epoch)                                       # in a loop of your own
    lightning.Trainer(callbacks=[curves.lightning()])
    transformers.Trainer(..., callbacks=[curves.transformers()])

What is measured, and how often, is the monitor's. No framework and no tracker is imported before it
is asked for, and none is needed by the others.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from saddlescope.curvature import CurvatureMonitor, SpectrumRow
from saddlescope.errors import UsageError

SCALARS = (
    "lambda_max", "lambda_max_lower", "lambda_max_upper", "lambda_min", "lambda_min_lower",
    "lambda_min_upper", "lambda_ratio", "lambda_ratio_lower", "lambda_ratio_upper",
    "gradient_norm", "loss",
)  # fmt: skip
"""The columns of a row that a tracker is given, as `curvature/ROW/COLUMN`; a CSV has them all."""

Writer = Callable[[int, Sequence[SpectrumRow]], None]
"""Takes the number of an epoch or step, and the rows that were measured there."""


class CurvatureLog:
    """Measure while something trains, and write the rows.

    Args:
        monitor: measures; its `unit` says whether epochs or steps are counted.
        to: where to write: a path (CSV, added to), a TensorBoard `SummaryWriter`, a wandb run, the
            module `mlflow`, a Lightning logger, or a function of (number, rows).
        network: picks what is measured out of what a framework trains, such as
            `lambda module: module.net` of a LightningModule; by default that itself.

    Raises:
        UsageError: a place that cannot be written to.
    """

    def __init__(
        self,
        monitor: CurvatureMonitor,
        *,
        to: Sequence[Any] = (),
        network: Callable[[Any], nn.Module] = lambda module: module,
    ) -> None:
        self.monitor, self.network = monitor, network
        self._writers = [_writer(place, monitor.unit) for place in to]
        self._last: tuple[int, int] | None = None

    def __call__(self, model: nn.Module, number: int) -> list[SpectrumRow]:
        """Measure if this epoch or step is due and new, and write.

        Args:
            model: may be in train mode; it is left as it was.
            number: of the epoch or step.

        Returns:
            The new rows.
        """
        if (id(model), number) == self._last:  # a framework may call several times a step
            return []
        self._last = id(model), number
        rows = self.monitor(model, number)
        for write in self._writers if rows else ():
            write(number, rows)
        return rows

    def lightning(self) -> Any:
        """Return a Lightning Callback: rank 0 measures, the others wait.

        An epoch has Lightning's number, from 0, a step the number of steps taken; training begins
        with step 0.
        """
        package = "lightning.pytorch" if find_spec("lightning") else "pytorch_lightning"

        def measure(_: Any, trainer: Any, module: nn.Module, *_given: Any) -> None:
            if trainer.is_global_zero:
                steps = self.monitor.unit == "step"
                number = trainer.global_step if steps else trainer.current_epoch
                self(self.network(module), number)

        hooks = {"step": ("on_train_start", "on_train_batch_end"), "epoch": ("on_train_epoch_end",)}
        return self._callback(import_module(package).Callback, hooks, measure)

    def transformers(self) -> Any:
        """Return a Hugging Face TrainerCallback: rank 0 measures, the others wait.

        Epochs count from 0, as everywhere here; a step has the number of steps taken, and training
        begins with step 0.
        """

        def measure(_: Any, _args: Any, state: Any, _control: Any, **given: Any) -> None:
            if state.is_world_process_zero:
                steps = self.monitor.unit == "step"
                # A fraction, up to rounding; `max_steps` may end within an epoch.
                number = state.global_step if steps else math.ceil(state.epoch - 1e-6) - 1
                self(self.network(given["model"]), number)

        hooks = {"step": ("on_train_begin", "on_step_end"), "epoch": ("on_epoch_end",)}
        return self._callback(import_module("transformers").TrainerCallback, hooks, measure)

    def _callback(self, base: type, hooks: dict[str, tuple[str, ...]], measure: Any) -> Any:
        """An object of a framework's own class, which does nothing else."""
        return type(
            "CurvatureCallback", (base,), dict.fromkeys(hooks[self.monitor.unit], measure)
        )()


def _writer(place: Any, unit: str) -> Writer:
    """How rows get there."""
    if isinstance(place, str | Path):
        return _csv_writer(Path(place), unit)
    if hasattr(place, "add_scalar"):  # TensorBoard

        def add(number: int, rows: Sequence[SpectrumRow]) -> None:
            for name, value in _scalars(rows).items():
                place.add_scalar(name, value, number)

        return add
    if hasattr(place, "log_metrics"):  # MLflow, and Lightning's loggers
        return lambda number, rows: place.log_metrics(_scalars(rows), step=number)
    if hasattr(place, "define_metric"):  # Weights & Biases
        # An axis of its own: its step only goes forward, and whoever trains counts it too.
        axis = f"curvature/{unit}"
        place.define_metric("curvature/*", step_metric=axis)
        return lambda number, rows: place.log({axis: number, **_scalars(rows)})
    if callable(place):
        write: Writer = place
        return write
    raise UsageError(
        f"to = {type(place).__name__}: expected a path, a SummaryWriter, a wandb run, the module "
        "mlflow, a Lightning logger, or a function of (number, rows)"
    )


def _scalars(rows: Sequence[SpectrumRow]) -> dict[str, float]:
    """Every finite number of `SCALARS`, by the name of its curve."""
    found = {f"curvature/{row.name}/{name}": getattr(row, name) for row in rows for name in SCALARS}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _csv_writer(path: Path, unit: str) -> Writer:
    """Add rows to a CSV of ours, below its header, or begin one."""
    columns = [unit, *(field.name for field in fields(SpectrumRow) if field.name != "ends")]
    if path.exists():
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            header = next(csv.reader(file), columns)
        if header != columns:
            raise UsageError(f"{path}: holds something else than this table; choose another name")

    def append(number: int, rows: Sequence[SpectrumRow]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows({unit: number, **row.columns()} for row in rows)

    return append
