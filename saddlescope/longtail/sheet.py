"""A sheet of sample images, one row a class: a look at what a data set holds before training."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from saddlescope.longtail.datasets import LongTailData
from saddlescope.runs import atomic_path

_CELL = 64
_GAP = 4
_LABEL = 210
_LETTERS = 30
_PAPER, _INK, _TAIL_INK = "white", "black", (178, 24, 43)


def write_sheet(
    data: LongTailData, path: Path, *, rows: int = 20, columns: int = 10
) -> tuple[int, ...]:
    """Draw the first training images of some classes into a PNG.

    Args:
        data: on the CPU.
        path: of the PNG.
        rows: classes at most: all, or from the largest to the smallest at even distances.
        columns: images of a class at most.

    Returns:
        The classes shown, from top to bottom.
    """
    by_size = sorted(range(data.num_classes), key=lambda c: (-data.counts[c], c))
    places = np.linspace(0, len(by_size) - 1, min(rows, len(by_size))).round().astype(int)
    shown = tuple(by_size[place] for place in places)
    step = _CELL + _GAP
    sheet = Image.new("RGB", (_LABEL + columns * step + _GAP, len(shown) * step + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, number in enumerate(shown):
        top = _GAP + row * step
        name = data.class_names[number]
        label = str(number) if name == str(number) else f"{number}  {name}"
        label = label if len(label) <= _LETTERS else label[: _LETTERS - 3] + "..."
        tail = number in data.groups["tail"]
        ink = _TAIL_INK if tail else _INK
        # Pillow's own font knows ASCII only where it was built without FreeType.
        draw.text((8, top + 18), label.encode("ascii", "replace").decode(), fill=ink)
        group = "tail" if tail else "head"
        draw.text((8, top + 34), f"{data.counts[number]} images, {group}", fill=ink)
        chosen = data.train.indices_of([number])[:columns]
        for column, picture in enumerate(data.train.pictures(chosen)):
            sheet.paste(_thumbnail(picture, data), (_LABEL + column * step, top))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=_maker())
    return shown


def _maker() -> PngInfo:
    """What tells a sheet of ours from anybody's picture."""
    about = PngInfo()
    about.add_text("Software", "saddlescope")
    return about


def _thumbnail(picture: torch.Tensor, data: LongTailData) -> Image.Image:
    scale = getattr(data.train, "scale", 255.0)
    pixels = (picture.float() * (255.0 / scale)).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    # Small images are shown pixel by pixel.
    smooth = min(image.size) > _CELL
    return image.resize(
        (_CELL, _CELL), Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    )
