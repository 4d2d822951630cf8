"""The sheet of sample images: which classes, and whose pixels where."""

import numpy as np
from PIL import Image

from saddlescope.longtail import FileOptions, Thresholds, load_data, write_sheet
from saddlescope.longtail.sheet import _CELL, _GAP, _LABEL
from tests.longtail.pictures import colour, write_lists


def cell(sheet, row, column):
    """The middle pixel of a cell."""
    step = _CELL + _GAP
    return sheet[_GAP + row * step + _CELL // 2, _LABEL + column * step + _CELL // 2].tolist()


def test_rows_are_classes_from_the_largest_to_the_smallest(tmp_path):
    write_lists(tmp_path, [2, 5, 3])
    files = FileOptions("train.txt", "test.txt", 80)
    data = load_data("list", root=tmp_path, thresholds=Thresholds(3), files=files)
    assert write_sheet(data, tmp_path / "sheet.png", columns=4) == (1, 2, 0)
    sheet = np.array(Image.open(tmp_path / "sheet.png"))
    for row, number in enumerate((1, 2, 0)):
        assert cell(sheet, row, 0) == list(colour(number))
    assert cell(sheet, 0, 3) == list(colour(1))
    assert cell(sheet, 2, 2) == [255, 255, 255]  # class 0 has two images
    assert write_sheet(data, tmp_path / "two.png", rows=2) == (1, 0)


def test_digits_are_drawn_at_their_own_scale(tmp_path):
    data = load_data("digits")
    write_sheet(data, tmp_path / "digits.png")
    sheet = np.array(Image.open(tmp_path / "digits.png"))
    first = data.train.images[data.train.indices_of([0])[0], 0].double().numpy()
    shown = sheet[_GAP : _GAP + _CELL : 8, _LABEL : _LABEL + _CELL : 8, 0]
    assert np.abs(shown - first * 255 / 16).max() <= 0.5
