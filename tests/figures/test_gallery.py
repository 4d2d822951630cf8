"""The gallery shows every figure, and names recipes that there are."""

import re
from pathlib import Path

from saddlescope.reporting import PICTURES

FIGURES = Path(__file__).parents[2] / "figures"


def test_every_recipe_that_the_gallery_names_exists():
    text = (FIGURES / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w*-]+\.toml)`", text)
    assert len(named) == 5
    assert all(list((FIGURES.parent / "train").glob(name)) for name in named)


def test_the_gallery_shows_every_figure():
    text = (FIGURES / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"!\[\w+\]\((gallery/\w+\.png)\)", text))
    assert shown == {f"gallery/{name}.png" for name in PICTURES}
    assert shown == {f"gallery/{path.name}" for path in (FIGURES / "gallery").iterdir()}
    assert all(entry.caption in text for entry in PICTURES.values())
