"""A spectrum table as a restartable job: each row is on disk before the next one begins.

So is each view of it (`views`): more of the row's matrix than two numbers, in files of their own.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from saddlescope.curvature import (
    Groups,
    Programs,
    SpectrumRow,
    Subset,
    as_patterns,
    count_samples,
    plan_programs,
    select_parameters,
    select_subsets,
)
from saddlescope.errors import Interrupted
from saddlescope.measurement.directions import Direction, update_directions
from saddlescope.measurement.job.kept import (
    LOCK_PATIENCE,
    Key,
    Rows,
    ViewRecords,
    digest_of,
    in_order,
    is_outdated,
    row_key,
)
from saddlescope.measurement.job.parts import part_files, read_part
from saddlescope.measurement.job.recomputing import refuse_other_loss
from saddlescope.measurement.kept_products import ProductsFile
from saddlescope.measurement.settings import Settings
from saddlescope.measurement.target import Target
from saddlescope.measurement.views import VIEWS, RowWork, check_views
from saddlescope.runs import (
    SPECTRUM_COLUMNS,
    one_writer,
    read_spectrum,
    refuse_foreign_table,
    views_folder,
    write_spectrum,
)
from saddlescope.stages import counted


@dataclass(frozen=True)
class Keeper:
    """How the rows of a job are kept while it runs.

    Attributes:
        finished: rows that need not be measured.
        save: called with these and the new ones after each new one.
        programs: the kind of product, of all rows of the job that these belong to.
    """

    finished: Rows
    save: Callable[[Rows], None]
    programs: Programs


@dataclass(frozen=True)
class SpectrumJob:
    """Which rows of which target, where they are kept.

    Attributes:
        target: what is measured.
        subsets: its rows.
        settings: how.
        seeds: of the start vectors; each subset has one row a seed.
        path: CSV that holds finished rows and takes new ones; None keeps nothing.
        views: what else is computed of each row and kept beside the table, see
            `saddlescope.measurement.views`.
        outdated: keys of rows on disk of weights that are no longer there; filled by `finished`.
    """

    target: Target
    subsets: tuple[Subset, ...]
    settings: Settings
    seeds: tuple[int, ...] = (0,)
    path: Path | None = None
    views: tuple[str, ...] = ()
    outdated: set[Key] = field(default_factory=set, compare=False)

    @classmethod
    def plan(
        cls,
        target: Target,
        *,
        classes: Literal["all", "none"] | Sequence[int] = "all",
        groups: Groups = ("all",),
        settings: Settings,
        seed: int | Sequence[int] = 0,
        path: Path | None = None,
        views: Sequence[str] = (),
    ) -> "SpectrumJob":
        """Check what is asked for before anything is computed.

        Raises:
            UsageError: a view that there is not, or that this operator has not, or nowhere to
                keep it, or where something else is; no parameter that matches; see
                `select_subsets`.
            DataError: see `select_subsets`.
        """
        subsets = select_subsets(target.samples, classes=classes, groups=groups)
        wanted = as_patterns(target.model, settings.matrix.parameters)
        select_parameters(target.model, wanted)
        settings = replace(settings, matrix=replace(settings.matrix, parameters=wanted))
        check_views(views, settings, path)
        if path is not None:
            refuse_foreign_table(path, SPECTRUM_COLUMNS)
        return cls(
            target=target,
            subsets=tuple(subsets),
            settings=settings,
            seeds=(seed,) if isinstance(seed, int) else tuple(dict.fromkeys(seed)),
            path=path,
            views=tuple(view for view in VIEWS if view in views),
        )

    @property
    def rows(self) -> tuple[tuple[Subset, int], ...]:
        """Subset and seed of each row, the seeds of a subset beside each other."""
        return tuple((subset, seed) for subset in self.subsets for seed in self.seeds)

    def run(
        self,
        *,
        on_row: Callable[[dict[str, Any], bool], None] | None = None,
        on_view: Callable[[dict[str, Any], str, bool], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        keeper: Keeper | None = None,
    ) -> list[dict[str, Any]]:
        """Measure what is missing and return all rows asked for, in order.

        The views of a row follow it, and are on disk before the next row begins.

        Args:
            on_row: called with each row and whether it was already there.
            on_view: called with the row, the view and whether that was already there.
            should_stop: asked after each product; True ends the job, finished rows kept.
            keeper: knows and keeps the rows; None is the table at `path`.

        Raises:
            Interrupted: `should_stop` said so.
            DataError: the file at `path` is not a spectrum table, or that of a view no view.
        """
        keeper = keeper or Keeper(self.finished(), self.save, self.programs())
        finished = dict(keeper.finished)
        expected = dict(zip(self.rows, self.row_keys(), strict=True))
        kept = {
            view: ViewRecords(self.path, view, self.target.identity, self._members)
            for view in self.views
            if self.path
        }
        directions = functools.cache(self._directions)
        # The same traced products for all rows and their views.
        matrix = replace(self.settings.matrix, programs=keeper.programs)
        settings = replace(self.settings, matrix=matrix)
        still_open = {
            pair: [view for view in kept if not kept[view].has(self._words(*pair, view))]
            for pair in self.rows
        }
        costs = [
            self._costs(pair[0], still_open[pair], reused=expected[pair] in finished)
            for pair in self.rows
        ]
        rows = []
        numbered = enumerate(
            counted("spectrum", self.rows, sizes=list(map(sum, costs)), text=_row_name)
        )
        for number, (subset, seed) in numbered:
            key, open_views = expected[subset, seed], still_open[subset, seed]
            words = self._words(subset, seed)
            with ProductsFile(self.path, words, settings.matrix.strategy) as products:
                work = RowWork(
                    target=replace(self.target, identity=self._identity(subset)),
                    subset=subset,
                    seed=seed,
                    settings=settings,
                    directions=directions,
                    check=self._watch(subset, products, should_stop),
                    folder=views_folder(self.path) if self.path else None,
                    products=products,
                )
                for part in counted("row", ("", *kept), sizes=costs[number], text=str):
                    if part:
                        if part in open_views:
                            own = finished[key] | self._words(subset, seed, part)
                            order = [self._words(*pair, part) for pair in self.rows]
                            kept[part].put(own, VIEWS[part].compute(work), order=order)
                        if on_view is not None:
                            on_view(finished[key], part, part not in open_views)
                        continue
                    reused = key in finished
                    if not reused:
                        needed = any(VIEWS[view].from_row for view in open_views)
                        finished[key] = self._columns(work.measure(eigenvectors=needed), work)
                        keeper.save(finished)
                    if on_row is not None:
                        on_row(finished[key], reused)
                    rows.append(finished[key])
        return rows

    def finished(self) -> Rows:
        """Read the rows on disk that still hold; those in left-over parts go into the table.

        Raises:
            DataError: the table, or a part file, is not one; both are left as they are.
            UsageError: see `is_outdated` and `refuse_other_loss`.
        """
        if self.path is None:
            return {}
        asked = set(self.row_keys())
        with one_writer(self.path, patience=LOCK_PATIENCE):
            parts = part_files(self.path)
            stored = _by_key(read_spectrum(self.path) if self.path.is_file() else [], asked)
            # All of them before any goes into the table.
            stored |= _by_key([row for part in parts for row in read_part(part)], asked)
            now = self.target.identity, self._members, self.path
            finished = {key: row for key, row in stored.items() if not is_outdated(row, *now)}
            self.outdated.update(stored.keys() - finished.keys())
            if parts:
                write_spectrum(self.path, in_order(finished, self.row_keys()))
                for part in parts:
                    part.unlink(missing_ok=True)
        # Without the lock, for which others wait a minute at most: it may take forward passes.
        kept = zip(self.rows, self.row_keys(), strict=True)
        held = [(subset, finished[key]) for (subset, _), key in kept if key in finished]
        refuse_other_loss(self.target, self.settings.matrix, held, self.path)
        return finished

    def save(self, finished: Rows) -> None:
        """Put the rows into the table on disk, if there is one, beside those of other processes."""
        if self.path is None:
            return
        with one_writer(self.path, patience=LOCK_PATIENCE):
            rows = read_spectrum(self.path) if self.path.is_file() else []
            stored = _by_key(rows, set(self.row_keys()))
            others = {key: row for key, row in stored.items() if key not in self.outdated}
            write_spectrum(self.path, in_order(others | finished, self.row_keys()))

    def row_keys(self) -> list[Key]:
        """List the keys of all rows asked for, in order."""
        return [row_key(self._words(*pair)) for pair in self.rows]

    def programs(self) -> Programs:
        """Choose the kind of product over all rows: a restarted job decides the same way."""
        return plan_programs(
            self.target.model,
            self.target.criterion,
            self.target.samples,
            self.subsets,
            strategy=self.settings.matrix.strategy,
        )

    def _costs(self, subset: Subset, open_views: list[str], *, reused: bool) -> list[float]:
        """About what a row and each of its views still take, in gradients of one sample."""
        n, typical = count_samples(self.target.samples, subset), self.settings.typical_products
        of_row = 0.0 if reused else 2.0 * n * typical
        of_views = [
            n * VIEWS[view].gradients(self.settings.views, typical) if view in open_views else 0.0
            for view in self.views
        ]
        return [of_row, *(of_views if self.path else ())]

    def _watch(
        self, subset: Subset, products: ProductsFile, should_stop: Callable[[], bool]
    ) -> Callable[[int, float, float], None]:
        """What is called after each product of a row and its views."""

        def after_product(*_: float) -> None:
            if should_stop():
                there = self.path is not None and self.path.is_file()
                kept = [f"finished rows are in {self.path}"] * there
                kept += [f"{products.count} products of this row are kept"] * bool(products.count)
                where = f"; {', '.join(kept)}, run again to go on" if kept else ""
                raise Interrupted(f"stopped at {subset.kind} {subset.name}{where}")

        return after_product

    def _directions(self) -> tuple[Direction, ...]:
        target = self.target
        return update_directions(
            target.model,
            target.criterion,
            target.samples,
            rule=target.rule,
            batch_size=self.settings.matrix.samples_a_pass,
        )

    @property
    def _members(self) -> dict[str, str]:
        return {one.name: one.members for one in self.subsets if one.kind == "group"}

    def _identity(self, subset: Subset) -> dict[str, Any]:
        identity = self.target.identity
        return {**identity, "digest": digest_of(identity["digest"], subset.members)}

    def _columns(self, row: SpectrumRow, work: RowWork) -> dict[str, Any]:
        known = row.columns() | work.target.identity | {"settings": self.settings.column()}
        return {column: known[column] for column in SPECTRUM_COLUMNS}

    def _words(self, subset: Subset, seed: int, view: str | None = None) -> dict[str, Any]:
        """What identifies a row, or a view of it, before it is measured."""
        parameter = next(self.target.model.parameters())
        settings, rule = self.settings, self.target.rule
        return {
            **self._identity(subset),
            **settings.key(),
            "kind": subset.kind,
            "name": subset.name,
            "seed": seed,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": parameter.device.type,
            "settings": VIEWS[view].settings(settings, rule) if view else settings.column(),
        }


def _row_name(row: tuple[Subset, int]) -> str:
    subset, _ = row
    return f"{subset.kind} {subset.name}"


def _by_key(rows: list[dict[str, Any]], asked: set[Key]) -> Rows:
    """Rows by the key that they are asked for by: float32's where it had to be float64."""
    return {_key(row, asked): row for row in rows}


def _key(row: dict[str, Any], asked: set[Key]) -> Key:
    own, of_model = row_key(row), row_key(row | {"dtype": "float32"})
    return of_model if own not in asked and of_model in asked else own
