"""The gallery shows every figure, with its caption and the recipe of its runs."""

import re
from pathlib import Path

from saddlescope.reporting import PICTURES

FIGURES = Path(__file__).parents[2] / "figures"


def test_the_gallery_shows_every_figure():
    text = (FIGURES / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[\w+\]\((gallery/\w+\.png)\)", text)
    assert shown == [f"gallery/{name}.png" for name in PICTURES]
    assert set(shown) == {f"gallery/{path.name}" for path in (FIGURES / "gallery").iterdir()}
    for picture in PICTURES.values():
        assert picture.caption in text
        assert (FIGURES.parent / picture.recipe).exists()
        assert picture.recipe in text
