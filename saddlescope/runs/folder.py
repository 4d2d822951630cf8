"""The layout of a run folder, in one place.

runs/NAME/  recipe.toml, run.json, metrics.jsonl, monitor.jsonl, norms.jsonl, losses.jsonl
            checkpoints/last.pt, best.pt, epoch-NNN.pt
            spectrum/CHECKPOINT-SPLIT.csv + .json, CHECKPOINT-SPLIT.views/ (see `view_files`)
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saddlescope.errors import DataError
from saddlescope.runs.reading import parse_toml, read_json, read_text

_LARGEST_RECIPE = 1 << 20
"""Bytes of a recipe.toml."""

_DEPTH = 3
"""How deep run folders may lie below a folder that is named: runs/STUDY/NAME, and one to spare."""


@dataclass(frozen=True)
class RunFolder:
    """Paths and plain reads of one run. Nothing is created by looking."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # a string will do

    @property
    def name(self) -> str:
        """The folder's name, the `run` column of every table; what is no text in it escaped."""
        return os.fsencode(self.path.resolve().name).decode("utf-8", "backslashreplace")

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe: every default written out."""
        return self.path / "recipe.toml"

    @property
    def run_file(self) -> Path:
        """Versions, device, commit, seed, command, state."""
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def monitor_file(self) -> Path:
        """One JSON object a check and group, where curvature was monitored."""
        return self.path / "monitor.jsonl"

    @property
    def norms_file(self) -> Path:
        """One JSON object a logged step: gradient norms of head and tail."""
        return self.path / "norms.jsonl"

    @property
    def losses_file(self) -> Path:
        """One JSON object a logged epoch: losses of head and tail at fixed weights."""
        return self.path / "losses.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, which: str) -> Path:
        """`last`, `best` or an epoch number as a path; of weights alone, if only these are kept."""
        stem = f"epoch-{int(which):03d}" if re.fullmatch(r"[0-9]{1,9}", which) else which
        path = self.checkpoints / f"{stem}.pt"
        alone = path.with_suffix(".safetensors")
        return alone if alone.is_file() and not path.is_file() else path

    def spectrum_file(self, checkpoint: str, split: str) -> Path:
        """Return the table of one checkpoint (its stem) and split."""
        return self.path / "spectrum" / f"{checkpoint}-{split}.csv"

    def spectrum_files(self) -> list[Path]:
        """Every spectrum table of the run, sorted by name."""
        return sorted((self.path / "spectrum").glob("*.csv"))

    def exists(self) -> bool:
        """Tell whether a run has been started here."""
        return self.recipe_file.is_file()

    def recipe(self) -> dict[str, Any]:
        """Return the resolved recipe as plain data.

        Raises:
            DataError: the folder holds no readable recipe.
        """
        if not os.path.lexists(self.recipe_file):
            raise DataError(
                f"{self.path}: not a run folder (no recipe.toml); "
                "make one with `saddlescope train RECIPE -o FOLDER`"
            )
        text = read_text(self.recipe_file, limit=_LARGEST_RECIPE)
        try:
            return parse_toml(text)
        except ValueError as error:
            raise DataError(f"{self.recipe_file}: not readable as TOML: {error}") from None

    def run(self) -> dict[str, Any]:
        """Return the content of run.json.

        Raises:
            DataError: it is missing or broken.
        """
        if not os.path.lexists(self.run_file):
            raise DataError(f"{self.run_file}: missing; the run folder is incomplete")
        content = read_json(self.run_file)
        if not isinstance(content, dict):
            raise DataError(f"{self.run_file}: expected a JSON object")
        return content

    def is_marked(self) -> bool:
        """Tell whether its run.json says that saddlescope started a run here.

        Raises:
            DataError: there is a run.json that cannot be read.
        """
        if not os.path.lexists(self.run_file):
            return False
        about = self.run().get("provenance")
        return isinstance(about, dict) and "saddlescope" in about


def find_runs(path: Path) -> list[RunFolder]:
    """Return the run folder at this path, or those below it by name; a damaged one counts."""
    return list(_expand(path, _DEPTH))


def _expand(path: Path, depth: int) -> Iterator[RunFolder]:
    folder = RunFolder(path)
    marks = (folder.recipe_file, folder.run_file, folder.metrics_file)
    if any(mark.is_file() for mark in marks):
        yield folder
    elif depth:
        try:
            children = sorted(child for child in path.iterdir() if child.is_dir())
        except OSError:
            return
        for child in children:
            yield from _expand(child, depth - 1)
