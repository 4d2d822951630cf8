"""Images that stay in files: what comes out, whoever decodes, and what is refused."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from saddlescope.errors import DataError
from saddlescope.longtail import Augmentation, FileOptions, ImageFiles, Thresholds, load_data
from saddlescope.longtail.files import decode
from tests.longtail.pictures import colour, write_lists, write_picture


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_lists(tmp_path_factory.mktemp("images"), [6, 4, 2])


def load(root, **options):
    files = FileOptions(train_list="train.txt", test_list="test.txt", image_size=16, **options)
    return load_data("list", root=root, thresholds=Thresholds(3, 5, 3), files=files)


def test_classes_counts_and_pixels(root):
    data = load(root)
    assert data.counts == (6, 4, 2)
    assert data.groups["tail"] == (2,)
    assert isinstance(data.train, ImageFiles)
    assert data.train.image_shape == (3, 16, 16)
    assert data.image_pixels == 256
    pictures = data.train.pictures([0, 6, 10])
    assert pictures.dtype == torch.uint8
    for number, picture in enumerate(pictures):
        assert picture[:, 8, 8].tolist() == list(colour(number))  # the white edge is cut off


def test_normalised_images_are_imagenets(root):
    data = load(root)
    image = data.train.normalised([0])[0, :, 8, 8]
    expected = (torch.tensor(colour(0)) / 255 - torch.tensor(data.train.mean)) / torch.tensor(
        data.train.std
    )
    torch.testing.assert_close(image, expected)
    assert data.train.mean == (0.485, 0.456, 0.406)
    assert len(data.test.normalised()) == 6


def batches(data, *, seed=7, **options):
    parts = torch.arange(12).split(5)
    return torch.cat(list(data.train.batches(parts, augmentation=Augmentation(seed), **options)))


@pytest.mark.slow
def test_worker_processes_change_no_pixel(root):
    alone, helped = batches(load(root)), batches(load(root, workers=2))
    assert torch.equal(alone, helped)
    assert not torch.equal(alone, batches(load(root), seed=8))


def test_a_sample_looks_the_same_whatever_batch_it_is_in(root):
    data = load(root)
    whole = batches(data)
    parts = [torch.tensor([11, 3]), torch.tensor([0])]
    other = list(data.train.batches(parts, augmentation=Augmentation(7)))
    assert torch.equal(other[0], whole[[11, 3]])
    assert torch.equal(other[1], whole[:1])
    mine = list(data.train.batches(parts, augmentation=Augmentation(7), mine=lambda _: slice(0, 1)))
    assert torch.equal(torch.cat(mine), whole[[11, 0]])


def test_selecting_keeps_files_and_labels_together(root):
    train = load(root).train
    chosen = train.select([11, 0])
    assert chosen.labels.tolist() == [2, 0]
    assert chosen.pictures([0])[0, :, 8, 8].tolist() == list(colour(2))
    assert train.indices_of([1]).tolist() == [6, 7, 8, 9]
    assert chosen.checksum != train.checksum
    assert train.to("cpu").checksum == train.checksum


def test_shrinking_first_changes_what_a_crop_sees(root):
    small = load(root, shrink_to=20)
    assert small.train.pictures([0]).shape == (1, 3, 16, 16)
    assert decode(root / "train/0/0.png", shrink_to=20).size == (27, 20)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_broken_file_is_named_in_one_line(tmp_path, workers):
    write_lists(tmp_path, [2, 1])
    (tmp_path / "train/1/0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    files = FileOptions("train.txt", "test.txt", 16, workers=workers)
    data = load_data("list", root=tmp_path, thresholds=Thresholds(2), files=files)
    with pytest.raises(DataError, match=r"train/1/0\.png: ") as caught:
        list(data.train.batches([torch.arange(3)]))
    assert "\n" not in str(caught.value)


def test_what_is_no_photograph_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"none\.png: cannot be read as an image: No such file"):
        decode(tmp_path / "none.png", shrink_to=None)
    postscript = tmp_path / "a.jpg"
    postscript.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(DataError, match="not an image of the formats JPEG, PNG"):
        decode(postscript, shrink_to=None)
    write_picture(tmp_path / "big.png", 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="more pixels than a photograph has"):
        decode(tmp_path / "big.png", shrink_to=None)


def test_grey_and_transparent_images_become_three_channels(tmp_path):
    Image.fromarray(np.full((9, 9), 77, np.uint8)).save(tmp_path / "grey.png")
    assert np.array(decode(tmp_path / "grey.png", shrink_to=None))[4, 4].tolist() == [77] * 3
    Image.new("RGBA", (9, 9), (1, 2, 3, 4)).save(tmp_path / "clear.png")
    assert np.array(decode(tmp_path / "clear.png", shrink_to=None))[4, 4].tolist() == [1, 2, 3]


def test_a_cache_gives_the_same_pixels_and_is_read_without_the_files(tmp_path):
    root, cache = write_lists(tmp_path / "images", [3, 2]), tmp_path / "cache"
    said = []
    options = {"image_size": 16, "cache": cache, "report": said.append}
    files = FileOptions("train.txt", "test.txt", **options)

    def pixels(files):
        data = load_data("list", root=root, thresholds=Thresholds(3), files=files)
        parts = [torch.arange(5)]
        return next(iter(data.train.batches(parts, augmentation=Augmentation(1))))

    plain = pixels(FileOptions("train.txt", "test.txt", 16))
    assert torch.equal(pixels(files), plain)
    assert sum("decoding" in line for line in said) == 2  # train and test
    data = load_data("list", root=root, thresholds=Thresholds(3), files=files)
    assert sum("decoding" in line for line in said) == 2
    for file in (root / "train").rglob("*.png"):
        file.unlink()
    assert torch.equal(
        next(iter(data.train.batches([torch.arange(5)], augmentation=Augmentation(1)))), plain
    )


def test_a_changed_file_or_another_size_is_another_cache(tmp_path):
    root, cache = write_lists(tmp_path / "images", [2, 1]), tmp_path / "cache"
    files = FileOptions("train.txt", "test.txt", 16, cache=cache)
    load_data("list", root=root, thresholds=Thresholds(2), files=files)
    assert len(list(cache.glob("*.bin"))) == 2
    write_picture(root / "train/0/0.png", 2, size=(64, 64))
    load_data("list", root=root, thresholds=Thresholds(2), files=files)
    assert len(list(cache.glob("*.bin"))) == 3
    files = FileOptions("train.txt", "test.txt", 16, 20, cache=cache)
    load_data("list", root=root, thresholds=Thresholds(2), files=files)
    assert len(list(cache.glob("*.bin"))) == 5


def flat(path, level):
    """A file whose size and time say nothing of what is in it, as an unpacked archive may leave."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"P6\n16 16\n255\n" + bytes([level]) * 768)
    os.utime(path, (1_000_000_000, 1_000_000_000))


def flat_folders(root, level):
    """`train` and `test` with the same names, sizes and times; test images are 100 brighter."""
    for index, kind in enumerate(("a", "a", "b")):
        flat(root / "train" / kind / f"{index}.ppm", level + index)
        flat(root / "test" / kind / f"{index}.ppm", level + 100 + index)
    return root


def levels(root, cache):
    files = FileOptions(image_size=16, cache=cache)
    data = load_data("folder", root=root, thresholds=Thresholds(2), files=files)
    return [part.pictures([0, 1, 2])[:, 0, 8, 8].tolist() for part in (data.train, data.test)]


def test_files_of_the_same_names_sizes_and_times_elsewhere_are_other_files(tmp_path):
    cache = tmp_path / "cache"
    first, second = flat_folders(tmp_path / "x", 10), flat_folders(tmp_path / "y", 50)
    (tmp_path / "link").symlink_to(first)
    assert levels(first, cache) == [[10, 11, 12], [110, 111, 112]]
    assert levels(second, cache) == [[50, 51, 52], [150, 151, 152]]
    assert len(list(cache.glob("*.bin"))) == 4
    # Found again, by whatever way one comes there.
    assert levels(tmp_path / "link", cache) == [[10, 11, 12], [110, 111, 112]]
    assert levels(tmp_path / "y" / ".." / "x", cache) == [[10, 11, 12], [110, 111, 112]]
    assert len(list(cache.glob("*.bin"))) == 4
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(second)
    assert levels(tmp_path / "link", cache) == [[50, 51, 52], [150, 151, 152]]


@pytest.mark.parametrize("linked", ["x/train/a", "x/train/a/0.ppm"])
def test_a_link_that_leads_elsewhere_is_another_file(tmp_path, linked):
    root, other = flat_folders(tmp_path / "x", 10), flat_folders(tmp_path / "y", 50)
    path, cache = tmp_path / linked, tmp_path / "cache"
    kept = path.rename(tmp_path / "kept")
    path.symlink_to(kept)
    assert levels(root, cache)[0] == [10, 11, 12]
    path.unlink()
    path.symlink_to(other / path.relative_to(root))
    assert levels(root, cache)[0] == [50, 51 if path.is_dir() else 11, 12]


def test_a_file_written_over_is_decoded_again_though_its_time_was_put_back(tmp_path):
    root, cache = flat_folders(tmp_path / "x", 10), tmp_path / "cache"
    assert levels(root, cache)[0] == [10, 11, 12]
    path = root / "train" / "b" / "2.ppm"
    changed = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == changed:  # clocks of file systems tick every few milliseconds
        flat(path, 99)
    assert levels(root, cache)[0] == [10, 11, 99]


def test_a_name_that_is_no_utf8_is_as_good_as_any(tmp_path):
    root, cache = flat_folders(tmp_path / "x", 10), tmp_path / "cache"
    os.rename(root / "train" / "a" / "0.ppm", os.fsencode(root / "train" / "a") + b"/\xff.ppm")
    for _ in range(2):
        assert levels(root, cache)[0] == [11, 10, 12]
    files = FileOptions(image_size=16)
    data = load_data("folder", root=root, thresholds=Thresholds(2), files=files)
    assert len(data.checksum) == 64


def test_a_build_that_fails_leaves_no_cache_and_a_damaged_one_is_refused(tmp_path):
    root, cache = write_lists(tmp_path / "images", [2, 1]), tmp_path / "cache"
    files = FileOptions("train.txt", "test.txt", 16, cache=cache)
    (root / "train/0/1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0/1\.png"):
        load_data("list", root=root, thresholds=Thresholds(2), files=files)
    assert not list(cache.iterdir())
    write_picture(root / "train/0/1.png", 0)
    load_data("list", root=root, thresholds=Thresholds(2), files=files)
    for pixels in cache.glob("*.bin"):
        pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(DataError, match="not a cache of decoded images; delete it"):
        load_data("list", root=root, thresholds=Thresholds(2), files=files)


GREY = (np.arange(30 * 40).reshape(30, 40) * 50).astype(np.uint16)


@pytest.mark.parametrize("kind", ["png", "pgm", "pgm of 12 bits", "pgm of 8 bits"])
def test_sixteen_bits_of_grey_are_not_white(tmp_path, kind):
    path = tmp_path / f"grey.{kind[:3]}"
    most = {"png": 65535, "pgm": 65535, "pgm of 12 bits": 4095, "pgm of 8 bits": 255}[kind]
    values = np.rint(GREY / 65535 * most).astype(np.uint16)
    if kind == "png":
        Image.fromarray(values).save(path)
    else:
        stored = values.astype(np.uint8 if most == 255 else ">u2").tobytes()
        path.write_bytes(b"P5\n40 30\n%d\n" % most + stored)
    pixels = np.asarray(decode(path, shrink_to=None))
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels - (values / most * 255)[..., None]).max() <= 1.0
    assert decode(path, shrink_to=15).size == (20, 15)


def test_floating_point_pixels_are_refused(tmp_path):
    path = tmp_path / "depth.ppm"
    path.write_bytes(b"Pf\n2 2\n-1.0\n" + np.ones(4, "<f4").tobytes())
    with pytest.raises(DataError, match=r"depth\.ppm: cannot be read .*floating-point"):
        decode(path, shrink_to=None)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_images_are_turned_as_their_exif_says(tmp_path, suffix):
    """A photograph taken upright, stored in each of the eight ways, comes out upright."""
    upright = np.zeros((40, 32, 3), np.uint8)
    upright[:16, :, 0] = upright[:, :16, 1] = 255  # red above, green on the left
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, 3),
    }  # fmt: skip
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{suffix}"
        quality = {} if suffix == "png" else {"quality": 95}
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif, **quality)
        found = np.asarray(decode(path, shrink_to=None)).astype(int)
        assert found.shape == upright.shape, orientation
        for row, column in ((4, 4), (4, 28), (36, 4), (36, 28)):
            assert np.abs(found[row, column] - upright[row, column]).max() < 40, orientation


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_leaves_the_image_as_it_is(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((8, 9, 3), 90, np.uint8)).save(
        path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"
    )
    assert decode(path, shrink_to=None).size == (9, 8)


def test_a_class_without_test_images_is_said(tmp_path):
    root = write_lists(tmp_path, [6, 4, 2])
    lines = (root / "test.txt").read_text().splitlines()
    (root / "test.txt").write_text("\n".join(line for line in lines if not line.endswith(" 2")))
    said = []
    assert load(root, report=said.append).num_classes == 3
    assert said == [
        "no test image of 1 of 3 classes (first: 2): accuracies are means over the other classes"
    ]
