"""A spectrum table as a restartable job: each row is on disk before the next one begins."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saddlescope.curvature import (
    Programs,
    SpectrumRow,
    measure_subset,
    plan_programs,
    select_subsets,
)
from saddlescope.curvature.spectra import Subset
from saddlescope.curvature.strategy import Strategy
from saddlescope.errors import Interrupted
from saddlescope.measurement.parts import part_files, read_part
from saddlescope.measurement.target import Target
from saddlescope.runs import SPECTRUM_COLUMNS, read_spectrum, write_spectrum
from saddlescope.runs.schema import SPECTRUM_KEY

Rows = dict[tuple[Any, ...], dict[str, Any]]
"""Finished rows by what decides their numbers."""


@dataclass(frozen=True)
class Settings:
    """Options of `extreme_eigenvalues` that decide a row's numbers, as one column."""

    rtol: float = 1e-2
    confidence: float = 0.999
    certify: bool = False
    max_matvecs: int = 200

    def column(self) -> str:
        """The `settings` column: "rtol=0.01 confidence=0.999 certify=0 max_matvecs=200"."""
        return (
            f"rtol={self.rtol:g} confidence={self.confidence:g} certify={int(self.certify)} "
            f"max_matvecs={self.max_matvecs}"
        )

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `extreme_eigenvalues`."""
        return vars(self).copy()


@dataclass(frozen=True)
class SpectrumJob:
    """Which rows of which target, where they are kept.

    Attributes:
        target: what is measured.
        subsets: its rows.
        settings: how.
        seed: of the start vectors.
        path: CSV that holds finished rows and takes new ones; None keeps nothing.
        batch_size: samples a forward pass; changes memory and speed only.
        strategy: the kind of product, see `saddlescope.curvature.Programs`.
    """

    target: Target
    subsets: tuple[Subset, ...]
    settings: Settings
    seed: int = 0
    path: Path | None = None
    batch_size: int = 256
    strategy: Strategy = "auto"

    @classmethod
    def plan(
        cls,
        target: Target,
        *,
        classes: Literal["all", "none"] | Sequence[int] = "all",
        groups: Sequence[str] = ("all",),
        **rest: Any,
    ) -> "SpectrumJob":
        """Check what is asked for before anything is computed.

        Raises:
            UsageError, DataError: see `select_subsets`.
        """
        subsets = select_subsets(target.samples, classes=classes, groups=groups)
        return cls(target=target, subsets=tuple(subsets), **rest)

    def run(
        self,
        *,
        on_row: Callable[[dict[str, Any], bool], None] | None = None,
        progress: Callable[[Subset, int, float, float], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[dict[str, Any]]:
        """Measure what is missing and return all rows asked for, in order.

        Args:
            on_row: called with each row and whether it was already there.
            progress: called after each product with (subset, products, θ_max, θ_min).
            should_stop: asked after each product; True ends the job, finished rows kept.

        Raises:
            Interrupted: `should_stop` said so.
            DataError: the file at `path` is not a spectrum table.
        """
        finished = self.finished()
        rows = []
        programs = self.programs()
        for subset in self.subsets:
            row = finished.get(self._key(subset))
            reused = row is not None
            if row is None:
                row = self._columns(self._measure(subset, programs, progress, should_stop))
                finished[row_key(row)] = row
                self.save(finished)
            if on_row is not None:
                on_row(row, reused)
            rows.append(row)
        return rows

    def finished(self) -> Rows:
        """The rows on disk that still hold; those in left-over part files go into the table."""
        if self.path is None:
            return {}
        parts = part_files(self.path)
        stored = read_spectrum(self.path) if self.path.is_file() else []
        stored += [row for part in parts for row in read_part(part)]
        finished = {row_key(row): row for row in stored if not self._outdated(row)}
        if parts:
            self.save(finished)
            for part in parts:
                part.unlink(missing_ok=True)
        return finished

    def save(self, finished: Rows) -> None:
        """Replace the table on disk, if there is one."""
        if self.path:
            write_spectrum(self.path, self._ordered(finished))

    def row_keys(self) -> list[tuple[Any, ...]]:
        """The keys of all rows asked for, in order."""
        return [self._key(subset) for subset in self.subsets]

    def programs(self) -> Programs:
        """The kind of product, chosen over all rows: a restarted job decides the same way."""
        return plan_programs(
            self.target.model,
            self.target.criterion,
            self.target.samples,
            self.subsets,
            strategy=self.strategy,
        )

    def _measure(
        self,
        subset: Subset,
        programs: Programs,
        progress: Callable[[Subset, int, float, float], None] | None,
        should_stop: Callable[[], bool],
    ) -> SpectrumRow:
        def after_product(products: int, largest: float, smallest: float) -> None:
            if progress is not None:
                progress(subset, products, largest, smallest)
            if should_stop():
                where = (
                    f"; finished rows are in {self.path}, run again to go on" if self.path else ""
                )
                raise Interrupted(f"stopped at {subset.kind} {subset.name}{where}")

        return measure_subset(
            self.target.model,
            self.target.criterion,
            self.target.samples,
            subset,
            seed=self.seed,
            batch_size=self.batch_size,
            programs=programs,
            progress=after_product,
            **self.settings.options(),
        )

    def _columns(self, row: SpectrumRow) -> dict[str, Any]:
        known = row.columns() | self.target.identity | {"settings": self.settings.column()}
        return {column: known[column] for column in SPECTRUM_COLUMNS}

    def _outdated(self, row: Mapping[str, Any]) -> bool:
        """Whether a row speaks of weights that this checkpoint's file no longer holds."""
        mine = self.target.identity
        same_file = all(row[column] == mine[column] for column in ("run", "checkpoint", "split"))
        return same_file and row["digest"] != mine["digest"]

    def _key(self, subset: Subset) -> tuple[Any, ...]:
        dtype = str(next(self.target.model.parameters()).dtype).removeprefix("torch.")
        known = self.target.identity | {
            "kind": subset.kind,
            "name": subset.name,
            "seed": self.seed,
            "dtype": dtype,
            "settings": self.settings.column(),
        }
        return row_key(known)

    def _ordered(self, finished: Mapping[tuple[Any, ...], dict[str, Any]]) -> list[dict[str, Any]]:
        """This job's rows in its order, after the rows of other settings."""
        mine = [key for key in self.row_keys() if key in finished]
        others = [row for key, row in finished.items() if key not in set(mine)]
        return [*others, *(finished[key] for key in mine)]


def row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides the numbers of a row."""
    return tuple(row[column] for column in SPECTRUM_KEY)
