"""Small image files for tests: each class has a colour of its own."""

import numpy as np
from PIL import Image


def colour(number):
    """The RGB of a class."""
    return 20 + 40 * number, 220 - 40 * number, 100


def write_picture(path, number, *, size=(40, 30)):
    """A PNG of one colour with a white left edge."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.empty((size[1], size[0], 3), np.uint8)
    pixels[:] = colour(number)
    pixels[:, 0] = 255
    Image.fromarray(pixels).save(path)


def write_noise(path, number, *, size=(40, 30)):
    """A PNG of which no two parts look the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng((number, *path.name.encode()))
    Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def write_lists(root, counts, test_each=2, *, write=write_picture):
    """`train.txt` and `test.txt` under a root, with their images."""
    for name, numbers in (("train", counts), ("test", [test_each] * len(counts))):
        lines = []
        for number, count in enumerate(numbers):
            for index in range(count):
                path = f"{name}/{number}/{index}.png"
                write(root / path, number, size=(40 + index, 30 + 3 * number))
                lines.append(f"{path} {number}\n")
        (root / f"{name}.txt").write_text("".join(lines))
    return root


def write_folders(root, counts, test_each=2, test_name="test"):
    """`train/CLASS/` and `test/CLASS/` under a root, with their images."""
    for name, numbers in (("train", counts), (test_name, [test_each] * len(counts))):
        for number, count in enumerate(numbers):
            for index in range(count):
                write_picture(root / name / f"kind{number}" / f"{index}.png", number)
    return root
