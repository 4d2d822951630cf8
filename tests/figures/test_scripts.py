"""The scripts of the paper's figures and tables run, and the gallery shows every figure."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from saddlescope.reporting import PICTURES, TABLES

FIGURES = Path(__file__).parents[2] / "figures"
SCRIPTS = ["fig1", "fig2", "fig3", "fig4", *TABLES]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_draws_into_figures_out(name, tmp_path):
    """Without its runs it says what is missing, and draws the figure or table that says so."""
    done = subprocess.run(
        [sys.executable, str(FIGURES / f"{name}.py")],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    written = [tmp_path / line for line in done.stdout.split()]
    assert len(written) == 3
    assert all(path.stat().st_size > 100 for path in written)
    assert ("no such folder" in done.stderr) == (name != "fig2")


def test_every_recipe_that_a_script_names_exists():
    for name in SCRIPTS:
        text = (FIGURES / f"{name}.py").read_text(encoding="utf-8")
        named = re.findall(r"(?:train|analysis)/[\w.-]+\.(?:toml|py)", text)
        assert named, name
        assert all((FIGURES.parent / path).is_file() for path in named)


def test_the_gallery_shows_every_figure():
    text = (FIGURES / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"!\[\w+\]\((gallery/\w+\.png)\)", text))
    assert shown == {f"gallery/{name}.png" for name in PICTURES}
    assert shown == {f"gallery/{path.name}" for path in (FIGURES / "gallery").iterdir()}
    assert all(entry.caption in text for entry in PICTURES.values())
