"""Sets of image files by name: lists, folders, and what their options may be."""

import pytest

from saddlescope.errors import DataError, UsageError
from saddlescope.longtail import DATASETS, FileOptions, Thresholds, load_data
from tests.longtail.pictures import write_folders, write_lists

LISTS = FileOptions("train.txt", "test.txt", 16)


def test_a_list_is_taken_as_it_is_or_with_a_profile(tmp_path):
    write_lists(tmp_path, [5, 8, 5])
    natural = load_data("list", root=tmp_path, thresholds=Thresholds(6), files=LISTS)
    assert natural.counts == (5, 8, 5)
    assert natural.imbalance_factor is None
    assert natural.groups["tail"] == (0, 2)
    cut = load_data(
        "list", root=tmp_path, thresholds=Thresholds(3), imbalance_factor=5, files=LISTS
    )
    assert cut.counts == (5, 2, 1)  # from the least that every class has
    assert cut.train.labels.bincount().tolist() == [5, 2, 1]


def test_folders_with_a_profile(tmp_path):
    write_folders(tmp_path, [6, 6, 6], test_name="val")
    data = load_data(
        "folder", root=tmp_path, thresholds=Thresholds(3), imbalance_factor=6,
        files=FileOptions(image_size=16),
    )  # fmt: skip
    assert data.counts == (6, 2, 1)
    assert data.class_names == ("kind0", "kind1", "kind2")
    assert len(data.test) == 6
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_known_sets_name_their_lists_and_sizes(tmp_path):
    with pytest.raises(DataError, match=r"ImageNet_LT_train\.txt: .*No such file"):
        load_data("imagenet-lt", root=tmp_path)
    with pytest.raises(DataError, match=r"iNaturalist18_train\.txt: .*No such file"):
        load_data("inaturalist2018", root=tmp_path)
    write_lists(tmp_path, [3, 2])
    (tmp_path / "train.txt").rename(tmp_path / "ImageNet_LT_train.txt")
    (tmp_path / "test.txt").rename(tmp_path / "ImageNet_LT_test.txt")
    with pytest.raises(DataError, match="2 classes, expected 1000"):
        load_data("imagenet-lt", root=tmp_path)
    assert DATASETS["imagenet-lt"].images == 115_846
    assert DATASETS["inaturalist2018"].num_classes == 8142


def test_bad_options_and_lists_that_do_not_fit(tmp_path):
    write_lists(tmp_path, [3, 2])
    with pytest.raises(UsageError, match=r"set data\.train_list and data\.test_list"):
        load_data("list", root=tmp_path)
    with pytest.raises(UsageError, match=r"data\.train_list is for sets of image files"):
        load_data("digits", files=FileOptions(train_list="train.txt"))
    with pytest.raises(UsageError, match="go with data set 'list'"):
        load_data("folder", root=tmp_path, files=LISTS)
    with pytest.raises(DataError, match="no image folder given"):
        load_data("list", files=LISTS)
    with pytest.raises(DataError, match="no such folder"):
        load_data("list", root=tmp_path / "none", files=LISTS)
    (tmp_path / "train/0/0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png: no such image; --data-root"):
        load_data("list", root=tmp_path, files=LISTS)


def test_labels_with_a_gap_or_beyond(tmp_path):
    write_lists(tmp_path, [3, 2, 1])
    text = (tmp_path / "train.txt").read_text()
    (tmp_path / "gap.txt").write_text("".join(x for x in text.splitlines(True) if " 1\n" not in x))
    with pytest.raises(DataError, match="class 1 has no training image"):
        load_data("list", root=tmp_path, files=FileOptions("gap.txt", "test.txt"))
    (tmp_path / "far.txt").write_text(text.replace(" 2\n", " 999999999\n"))
    with pytest.raises(DataError, match="class 2 has no training image"):  # and at once
        load_data("list", root=tmp_path, files=FileOptions("far.txt", "test.txt"))
    (tmp_path / "few.txt").write_text("".join(x for x in text.splitlines(True) if " 2\n" not in x))
    with pytest.raises(DataError, match="label 2, but the training list has classes 0 to 1"):
        load_data("list", root=tmp_path, files=FileOptions("few.txt", "test.txt"))
