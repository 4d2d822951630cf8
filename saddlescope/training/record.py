"""The files of a run beside its checkpoints: recipe.toml, run.json, and the rows of its logs."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saddlescope.errors import DataError, UsageError
from saddlescope.longtail import LongTailData
from saddlescope.runs import (
    RunFolder,
    append_row,
    empty_run_folder,
    foreign_names,
    read_rows,
    record_at,
    remove_leftovers,
    rewrite_rows,
    shown,
    write_json,
    write_text,
)
from saddlescope.training.recipe import Recipe, first_difference, parse_recipe


def _said_of(recipe: Recipe) -> dict[str, Any]:
    """What run.json says of a recipe."""
    return {
        "method": recipe.method_key,
        "loss": recipe.loss.name,
        "seed": recipe.training.seed,
        "epochs": recipe.training.epochs,
    }


def refuse_changed(folder: RunFolder, recipe: Recipe, data: LongTailData) -> None:
    """Hold a run's recipe and data to what run.json says of them.

    Args:
        folder: of the run; without a run.json nothing is known of it.
        recipe: that stands in it now.
        data: that this recipe and the data folder give now.

    Raises:
        DataError: run.json is broken, or speaks of another recipe or of other data.
    """
    there = folder.run() if folder.run_file.is_file() else {}
    for key, now in _said_of(recipe).items():
        if there.get(key, now) != now:
            raise DataError(
                f"{folder.path}: recipe.toml says {key} {now!r} and run.json {there[key]!r}: the "
                "recipe was changed after the run had begun; put it back as it was"
            )
    of_data = there.get("data")
    if isinstance(of_data, dict) and of_data.get("checksum", data.checksum) != data.checksum:
        raise DataError(
            f"{folder.path}: these are not the data that it was trained on (their checksum is not "
            "that in run.json): name their folder with --data-root, and leave [data] in "
            "recipe.toml as it was"
        )


class RunRecord:
    """The record of one run.

    Args:
        folder: of the run.
        recipe: of the run.
        data: it trains on.
        writes: whether this process keeps the record; otherwise nothing here does anything.
    """

    def __init__(
        self, folder: RunFolder, recipe: Recipe, data: LongTailData, *, writes: bool
    ) -> None:
        self.folder, self.recipe, self.data, self.writes = folder, recipe, data, writes

    def claim(self, notes: Mapping[str, Any], *, resume: bool, force: bool) -> None:
        """Start a record, or take up the one that is there.

        Args:
            notes: for run.json, beside what recipe and data say.
            resume: go on with what is there.
            force: remove what a run has left there, and only that.

        Raises:
            UsageError: the folder holds a run, another recipe's run, or something else.
            DataError: its run.json or its recipe.toml is broken, or it is finished without a last
                checkpoint.
        """
        folder = self.folder
        if not self.writes:
            return
        marked = folder.is_marked()
        if marked and force and not resume:
            empty_run_folder(folder.path)
            marked = False
        if folder.path.is_dir():
            remove_leftovers(folder.path)
        if not marked:
            self._refuse_anything_else()
            # The mark first: a folder with a recipe alone may be anybody's.
            self._start(notes)
            write_text(folder.recipe_file, self.recipe.to_toml())
            return
        if not resume:
            raise UsageError(f"{folder.path}: holds a run already; pass --resume or --force")
        if not folder.exists():  # killed between the mark and the recipe
            write_text(folder.recipe_file, self.recipe.to_toml())
        there = parse_recipe(folder.recipe(), origin=str(folder.recipe_file))
        if there != self.recipe:
            raise UsageError(
                f"{folder.path}: was started with another recipe "
                f"({first_difference(there, self.recipe)}); resume it with its own recipe.toml, "
                "or choose another folder"
            )
        refuse_changed(folder, self.recipe, self.data)
        done = folder.run().get("state") == "finished" and folder.metrics_file.is_file()
        if done and not folder.checkpoint("last").is_file():
            raise DataError(
                f"{folder.path}: is finished and its last checkpoint is gone; --force trains it "
                "again from the first epoch on"
            )
        self.note(state="running")

    def _refuse_anything_else(self) -> None:
        """Refuse a folder that is not empty, unless it holds no more than this recipe of ours."""
        path = self.folder.path
        if not path.is_dir():
            return
        names = sorted(entry.name for entry in path.iterdir())
        if names == ["recipe.toml"] and self.folder.recipe() == self.recipe.model_dump(
            exclude_none=True
        ):
            return  # killed before there was a mark
        if names:
            raise UsageError(
                f"{path}: holds {shown(foreign_names(path) or names)} and is not a run folder "
                "(no run.json of saddlescope); choose another"
            )

    def note(self, *, state: str) -> None:
        """Write the state into run.json."""
        if self.writes:
            write_json(self.folder.run_file, self.folder.run() | {"state": state})

    def append(self, path: Path, row: Mapping[str, Any]) -> None:
        """Add a row to one of the logs.

        Raises:
            DataError: see `refuse_removed`.
        """
        if self.writes:
            self.refuse_removed()
            append_row(path, row)

    def refuse_removed(self) -> None:
        """Refuse to make a folder again that somebody has removed while the run went on.

        Raises:
            DataError: run.json is gone.
        """
        if not self.folder.run_file.is_file():
            raise DataError(f"{self.folder.path}: removed while its run went on; nothing is kept")

    def drop_rows(self, epoch: int, step: int) -> None:
        """Remove the rows of what will run again from here on, so that none stands twice."""
        if not self.writes:
            return
        folder = self.folder
        logs = (folder.metrics_file, folder.monitor_file, folder.norms_file, folder.losses_file)
        for path in logs:
            if path.is_file():
                # Only norms.jsonl has rows within an epoch; the others' are of a whole one.
                with record_at(path):
                    kept = [
                        row
                        for row in read_rows(path)
                        if (row.get("epoch", 0), row.get("step", math.inf)) < (epoch, step)
                    ]
                rewrite_rows(path, kept)

    def _start(self, notes: Mapping[str, Any]) -> None:
        data = self.data
        content = {
            "state": "running",
            **_said_of(self.recipe),
            "data": {
                "name": data.name,
                "counts": list(data.counts),
                "groups": {name: list(classes) for name, classes in data.groups.items()},
                "class_names": list(data.class_names),
                "checksum": data.checksum,
            },
            **notes,
        }
        write_json(self.folder.run_file, content)
