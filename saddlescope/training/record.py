"""What a run writes beside its checkpoints: recipe.toml, run.json, and the rows of its logs."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saddlescope.errors import UsageError
from saddlescope.longtail import LongTailData
from saddlescope.runs import RunFolder, write_json, write_text
from saddlescope.runs.tables import append_row, read_rows, rewrite_rows
from saddlescope.training.recipe import Recipe, first_difference, parse_recipe


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
            force: delete what is there.

        Raises:
            UsageError: the folder holds a run, another recipe's run, or something else.
        """
        folder = self.folder
        if not self.writes:
            return
        if folder.exists() and force and not resume:
            shutil.rmtree(folder.path)
        if not folder.exists():
            if folder.path.is_dir() and any(folder.path.iterdir()):
                raise UsageError(f"{folder.path}: not empty and not a run folder; choose another")
            write_text(folder.recipe_file, self.recipe.to_toml())
            self._start(notes)
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
            self._start(notes)

    def note(self, *, state: str) -> None:
        """Write the state into run.json."""
        if self.writes:
            write_json(self.folder.run_file, self.folder.run() | {"state": state})

    def append(self, path: Path, row: Mapping[str, Any]) -> None:
        """Add a row to one of the logs."""
        if self.writes:
            append_row(path, row)

    def drop_rows(self, epoch: int, step: int) -> None:
        """Remove the rows of what will run again from here on, so that none stands twice."""
        if not self.writes:
            return
        folder = self.folder
        logs = (folder.metrics_file, folder.monitor_file, folder.norms_file, folder.losses_file)
        for path in logs:
            if path.is_file():
                # Only norms.jsonl has rows within an epoch; the others' are of a whole one.
                kept = [
                    row
                    for row in read_rows(path)
                    if (row.get("epoch", 0), row.get("step", math.inf)) < (epoch, step)
                ]
                rewrite_rows(path, kept)

    def _start(self, notes: Mapping[str, Any]) -> None:
        data, recipe = self.data, self.recipe
        content = {
            "state": "running",
            "method": recipe.method_key,
            "loss": recipe.loss.name,
            "seed": recipe.training.seed,
            "epochs": recipe.training.epochs,
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
