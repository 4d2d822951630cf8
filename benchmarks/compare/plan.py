"""The parts of the benchmark and their units, in the order they are measured."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.compare.cases import NETWORKS, Cases
from benchmarks.compare.ends import defaults_units, ends_units
from benchmarks.compare.launches import launch_units
from benchmarks.compare.peak import memory_units
from benchmarks.compare.precision import precision_units
from benchmarks.compare.record import Record, Unit
from benchmarks.compare.scaling import scaling_units
from benchmarks.compare.steps import steps_units
from benchmarks.compare.table import table_units
from benchmarks.compare.tools import Tool
from saddlescope.curvature import tf32
from saddlescope.errors import Interrupted

PARTS = ("ends", "defaults", "table", "memory", "scaling", "steps", "launches", "precision")


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        cases: where problems come from.
        names: of the cases of `ends`, `defaults` and `memory`.
        tools: to compare.
        parts: of `PARTS`.
        seeds: start vectors that a swept setting must be right on.
        repeats: timed runs.
        every: the table also of all 100 classes.
        runs: as given to `cases`, for processes of their own.
        data_root: as given to `cases`.
    """

    cases: Cases
    names: Sequence[str]
    tools: Sequence[Tool]
    parts: Sequence[str] = PARTS
    seeds: int = 3
    repeats: int = 3
    every: bool = True
    runs: Sequence[Path] = ()
    data_root: Path | None = None

    def units(self) -> Iterator[Unit]:
        """All units, in order."""
        cuda = self.cases.device.type == "cuda"
        small = f"{NETWORKS[0]}-class-80"
        if "ends" in self.parts:
            yield from ends_units(
                self.cases, self.names, self.tools, seeds=self.seeds, repeats=self.repeats
            )
        if "defaults" in self.parts:
            yield from defaults_units(self.cases, self.names, self.tools)
        if "table" in self.parts:
            yield from table_units(self.cases, self.tools, every=self.every)
        if "memory" in self.parts:
            yield from memory_units(
                self.names, self.tools, runs=self.runs, data_root=self.data_root,
                device=str(self.cases.device),
            )  # fmt: skip
        if "scaling" in self.parts:
            yield from scaling_units(self.cases)
        if "steps" in self.parts:
            yield from steps_units(self.cases)
        if "launches" in self.parts and cuda:
            yield from launch_units(self.cases, [f"{network}-class-80" for network in NETWORKS])
        if "precision" in self.parts:
            yield from precision_units(self.cases, small)


def carry_out(
    plan: Plan,
    record: Record,
    *,
    time_limit: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[str, float], None] = lambda _key, _share: None,
) -> int:
    """Measure what the record lacks, one unit after the other.

    Args:
        plan: what is to be measured.
        record: where it is kept.
        time_limit: seconds after which no unit is begun.
        stop: asked before each unit.
        report: told the next unit and the share that is done.

    Returns:
        How many units are left.

    Raises:
        Interrupted: `stop` said so; what was measured is on disk.
    """
    began = time.monotonic()
    units = list({unit.key: unit for unit in plan.units()}.values())
    missing = [unit for unit in units if unit.key not in record]
    for position, unit in enumerate(missing):
        if stop():
            raise Interrupted(
                f"{record.path}: {len(missing) - position} units left; repeat to go on"
            )
        if time_limit is not None and time.monotonic() - began > time_limit:
            return len(missing) - position
        report(unit.key, 1.0 - (len(missing) - position) / len(units))
        with tf32(
            allowed=False
        ):  # every tool and every gradient under the instrument's own setting
            found = unit.measure(record)
        record.put(unit.key, found)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return 0
