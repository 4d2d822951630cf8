"""Runs that share their first epochs: one goes on from a checkpoint that the other has kept.

SSE-SAM's first stage is SAM (ext.), step by step: two runs whose recipes differ in the method alone
have the same weights until their radii differ, because the order of the samples and every random
state follow from seed and epoch. So the second one need not compute them again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from saddlescope.errors import DataError, UsageError
from saddlescope.runs import RunFolder, read_rows, record_at, rewrite_rows, write_bytes
from saddlescope.training.checkpoints import load_checkpoint, save_checkpoint
from saddlescope.training.recipe import Recipe, first_difference, parse_recipe

_OF_THE_RADII = {"name", "first_stage", "rho", "rho_head", "rho_tail", "gamma"}
"""Keys of `[method]` that act through the radii only, which are compared epoch by epoch."""


@dataclass(frozen=True)
class Trunk:
    """A run to go on from.

    Attributes:
        folder: of the run.
        epochs: that both runs share, and after which the run has kept a checkpoint.
        best: the checkpoint with the best accuracy of these epochs; None where none was measured.
    """

    folder: RunFolder
    epochs: int
    best: Path | None

    @property
    def checkpoint(self) -> Path:
        """The state after the shared epochs."""
        return self.folder.checkpoint(str(self.epochs - 1))


@dataclass(frozen=True)
class Branching:
    """The tie of a run to others that share its first epochs.

    Attributes:
        trunk: the run to go on from; of no use to a run that has a checkpoint of its own.
        keep: epochs after which the state is kept for others, beside those of
            `training.checkpoint_every`.
    """

    trunk: Trunk | None = None
    keep: frozenset[int] = frozenset()


APART: Final = Branching()
"""Of a run that has nothing to do with any other."""


def shared_epochs(one: Recipe, other: Recipe) -> int:
    """Count the first epochs in which two recipes take the same steps; 0 where they never do."""
    if _but_for_the_radii(one) != _but_for_the_radii(other):
        return 0
    epochs = one.training.epochs
    left, right = one.method.radii(epochs), other.method.radii(epochs)
    return next((e for e in range(epochs) if left.at(e) != right.at(e)), epochs)


def trunk_of(index: int, recipes: tuple[Recipe, ...]) -> tuple[int, int]:
    """Choose the earlier run of a sweep that a run can go on from.

    Args:
        index: of the run.
        recipes: of the sweep, in order.

    Returns:
        Its index and the epochs that both share; (-1, 0) where there is none.
    """
    shared = [
        (shared_epochs(recipes[index], earlier), -i) for i, earlier in enumerate(recipes[:index])
    ]
    epochs, position = max(shared, default=(0, 0))
    return (-position, epochs) if epochs else (-1, 0)


def branch_epochs(index: int, recipes: tuple[Recipe, ...]) -> frozenset[int]:
    """List the epochs after which a run of a sweep keeps its state for later ones to go on from."""
    later = (trunk_of(i, recipes) for i in range(index + 1, len(recipes)))
    last = recipes[index].training.epochs
    return frozenset(epochs - 1 for trunk, epochs in later if trunk == index and epochs < last)


def in_a_sweep(recipe: Recipe, recipes: tuple[Recipe, ...], beside: Path) -> Branching:
    """Find what a run of a sweep has to do with the others, whose folders lie beside each other.

    Args:
        recipe: of the run, one of the next.
        recipes: of the sweep, in order.
        beside: the folder of the run folders.
    """
    index = recipes.index(recipe)
    trunk, _ = trunk_of(index, recipes)
    folder = RunFolder(beside / recipes[trunk].run_name)
    found = _usable(recipe, folder) if trunk >= 0 and folder.exists() else None
    return Branching(found, branch_epochs(index, recipes))


def require_trunk(recipe: Recipe, folder: RunFolder) -> Trunk:
    """Go on from this run.

    Raises:
        DataError: it is none, or has kept no checkpoint of the shared epochs.
        UsageError: the two recipes share no epoch.
    """
    there = parse_recipe(folder.recipe(), origin=str(folder.recipe_file))
    shared = shared_epochs(recipe, there)
    if not shared:
        raise UsageError(
            f"--branch {folder.path}: its steps differ from the first one on "
            f"({first_difference(there, recipe)})"
        )
    trunk = _usable(recipe, folder)
    if trunk is None:
        raise DataError(
            f"--branch {folder.path}: keeps no checkpoint of the {shared} epochs that both "
            "share, or not the best of them; train it with --set training.checkpoint_every=…"
        )
    return trunk


def refuse_other_monitor(trunk: Trunk, monitor: dict[str, Any] | None) -> None:
    """Refuse a trunk whose curvature was watched otherwise: the shared epochs would have no rows.

    Args:
        trunk: to go on from.
        monitor: settings of the run's own, None without one.

    Raises:
        DataError: they differ.
    """
    with record_at(trunk.folder.run_file):
        there = trunk.folder.run().get("monitor")
    if there != monitor:
        had, has = (
            f"--monitor {','.join(one['subsets'])} --monitor-every {one['every']}"
            if one
            else "no --monitor"
            for one in (there, monitor)
        )
        raise DataError(
            f"{trunk.folder.path}: was trained with {had}, this run has {has}: of the epochs that "
            "they share monitor.jsonl would say something else. Train both alike, or this one "
            "apart, with -o and without --branch"
        )


def take_over(trunk: Trunk, folder: RunFolder, recipe: Recipe, *, checksum: str | None) -> None:
    """Copy the logs and the kept checkpoints of the shared epochs into a run's folder.

    The logs may hold later rows, which `RunRecord.drop_rows` removes.

    Raises:
        DataError: the other run trained on other data.
    """
    with record_at(trunk.folder.run_file):
        there = (trunk.folder.run().get("data") or {}).get("checksum")
    if there != checksum:
        raise DataError(f"{trunk.folder.path}: was trained on other data of the same name")
    for source, target in _copies(trunk, folder, recipe.training.checkpoint_every):
        if source.is_file() and source.suffix == ".jsonl":
            write_bytes(target, source.read_bytes())
        elif source.is_file():
            save_checkpoint(target, load_checkpoint(source) | {"recipe": recipe.to_toml()})
    radii = recipe.method.radii(recipe.training.epochs)
    with record_at(folder.metrics_file):
        rows = read_rows(folder.metrics_file) if folder.metrics_file.is_file() else []
        # The same radii may be another stage's: with γ = 0 there is no first one.
        own = [row | {"stage": radii.stage(row["epoch"])} for row in rows]
    rewrite_rows(folder.metrics_file, own)


def keep_best(folder: RunFolder, epochs: int) -> None:
    """Keep the best checkpoint of the first epochs under its own, for a run that branches off."""
    best = best_epoch(folder, epochs)
    if best is not None:
        write_bytes(folder.checkpoint(str(best)), folder.checkpoint("best").read_bytes())


def best_epoch(folder: RunFolder, epochs: int) -> int | None:
    """Name the first epochs' one of the best accuracy; None where none was measured."""
    with record_at(folder.metrics_file):
        measured = [
            (row["acc_avg"], -row["epoch"])
            for row in read_rows(folder.metrics_file)
            if row["epoch"] < epochs and row["acc_avg"] is not None
        ]
        return -max(measured)[1] if measured else None


def _usable(recipe: Recipe, folder: RunFolder) -> Trunk | None:
    shared = shared_epochs(recipe, parse_recipe(folder.recipe(), origin=str(folder.recipe_file)))
    for epochs in range(shared, 0, -1):
        if folder.checkpoint(str(epochs - 1)).is_file():
            best = best_epoch(folder, epochs)
            kept = None if best is None else folder.checkpoint(str(best))
            if kept is None or kept.is_file():
                return Trunk(folder, epochs, kept)
    return None


def _copies(trunk: Trunk, folder: RunFolder, every: int) -> Iterator[tuple[Path, Path]]:
    logs = ("metrics_file", "monitor_file", "norms_file", "losses_file")
    yield from ((getattr(trunk.folder, log), getattr(folder, log)) for log in logs)
    for epoch in range(every - 1, trunk.epochs, every) if every else ():
        yield trunk.folder.checkpoint(str(epoch)), folder.checkpoint(str(epoch))
    if trunk.best is not None:
        yield trunk.best, folder.checkpoint("best")


def _but_for_the_radii(recipe: Recipe) -> dict[str, object]:
    return recipe.model_dump(exclude={"name": True, "method": _OF_THE_RADII})
