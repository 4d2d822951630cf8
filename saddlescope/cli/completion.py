"""Offer values of options to the shell (`saddlescope --install-completion`).

Enumerations and paths are typer's own; here are names, lists of names, and recipes. The functions
run at every press of the key: they import nothing that is not loaded already, and tests hold the
names here to those of the rooms.
"""

import glob
from collections.abc import Callable, Iterable
from pathlib import Path

import saddlescope

CHECKPOINTS = ("last", "best")
DATA_SETS = (
    "digits", "prototypes", "cifar10", "cifar100", "imagenet-lt", "inaturalist2018", "list",
    "folder",
)  # fmt: skip
FIGURES = (
    "fig1", "fig2", "fig3", "fig4", "table1", "table2", "table3", "ratio", "extremes", "training",
    "shots", "epochs", "density", "slices", "plane", "phase", "summary", "all",
)  # fmt: skip
GROUPS = ("all", "head", "tail", "many", "medium", "few", "none")


def one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Offer one name."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Offer names separated by commas, each once."""

    def offer(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        left = [name for name in names if name not in before.split(",")]
        return [before + comma + name for name in left if name.startswith(last)]

    return offer


def recipes(incomplete: str) -> list[str]:
    """Offer the packaged recipes, TOML files, and folders to look into."""
    folder = Path(saddlescope.__file__).parent / "training" / "recipes"
    packaged = [f"package:{path.stem}" for path in sorted(folder.glob("*.toml"))]
    files = [
        f"{path}/" if path.is_dir() else str(path)
        for path in map(Path, sorted(glob.glob(f"{glob.escape(incomplete)}*")))
        if path.is_dir() or path.suffix == ".toml"
    ]
    return one_of(packaged + files)(incomplete)
