"""List files and folders: what is read, and what is refused with its place."""

import os

import pytest

from saddlescope.errors import DataError
from saddlescope.longtail import FileOptions, Thresholds, load_data
from saddlescope.longtail.lists import SUFFIXES, read_folder, read_list
from tests.longtail.pictures import write_folders


def listed(tmp_path, text):
    file = tmp_path / "list.txt"
    file.write_text(text)
    return read_list(file, root=tmp_path)


def test_paths_labels_and_blank_lines(tmp_path):
    found = listed(tmp_path, "train/n1/a.JPEG 0\n\n  train/n2/b c.JPEG\t12 \n")
    assert found.paths == ("train/n1/a.JPEG", "train/n2/b c.JPEG")
    assert found.labels == (0, 12)
    assert found.weights is None


def test_a_third_column_is_a_weight(tmp_path):
    found = listed(tmp_path, "a.png 0 1\nb.png 1 2.5e-1\n")
    assert found.weights == (1.0, 0.25)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no line"),
        ("a.png\n", r"line 1: 'a\.png' is not `path label`"),
        ("a.png 0\nb.png -1\n", "line 2"),
        ("a.png 0.5\n", "line 1"),
        ("a.png 99999999999\n", "line 1"),
        ("/etc/passwd 0\n", "leaves the image root"),
        ("../a.png 0\n", "leaves the image root"),
        ("x/../../a.png 0\n", "leaves the image root"),
        ("a.png 0\na.png 1\n", r"a\.png stands twice"),
        ("a.png 0 1\nb.png 0\n", "1 of 2 lines have a weight"),
        ("a.png 0 -1\n", "line 1: weight"),
        ("a.png 0 nan\n", "line 1: weight nan"),
        ("a.png 0 1.2.3\n", "line 1: weight 1.2.3"),
        ("a.png 0 .\n", "line 1: weight ."),
        ("a.png 0 1e39\n", "line 1: weight 1e39"),
        ("a.png 0 inf\n", "line 1: weight inf"),
    ],
)
def test_what_is_no_list_is_refused_with_its_line(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        listed(tmp_path, text)


def test_files_that_cannot_be_lists(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: not readable: No such file"):
        read_list(tmp_path / "none.txt", root=tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00 1\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_list(tmp_path / "binary.txt", root=tmp_path)


def test_folders_are_sorted_and_other_files_left_alone(tmp_path):
    write_folders(tmp_path, [2, 1])
    (tmp_path / "train" / "kind0" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "kind1" / "deeper").mkdir()
    (tmp_path / "train" / "kind1" / "0.png").rename(tmp_path / "train/kind1/deeper/0.PNG")
    found, names = read_folder(tmp_path / "train")
    assert names == ("kind0", "kind1")
    assert found.paths == ("kind0/0.png", "kind0/1.png", "kind1/deeper/0.PNG")
    assert found.labels == (0, 0, 1)


def touched(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_every_ending_of_a_format_that_is_read_is_taken(tmp_path):
    names = [f"{number}{suffix}" for number, suffix in enumerate(SUFFIXES)]
    touched(*(tmp_path / "a" / name for name in (*names, "x.JPG", "y.Jfif")))
    found, _ = read_folder(tmp_path)
    assert set(found.paths) == {f"a/{name}" for name in (*names, "x.JPG", "y.Jfif")}


@pytest.mark.parametrize("name", ["deep/x.tiff", "y.GIF", "z.heic"])
def test_an_image_of_another_format_is_refused_by_its_name(tmp_path, name):
    touched(tmp_path / "a" / "1.png", tmp_path / "a" / name)
    with pytest.raises(DataError, match=rf"a/{name}: images of this format are not read") as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_left_out_is_said_once(tmp_path):
    write_folders(tmp_path, [3, 1])
    said = []
    read_folder(tmp_path / "train", report=said.append)
    assert said == []
    train = tmp_path / "train"
    touched(train / "9.png", train / "kind0" / "9.png~", train / "kind1" / "0007", train / ".x")
    load_data("folder", root=tmp_path, files=FileOptions(image_size=16, report=said.append),
              thresholds=Thresholds(2))  # fmt: skip
    assert said == [
        f"{train}: 3 files left out, which are not named as images or are in no class's folder "
        "(first: 9.png)"
    ]


def test_hidden_names_and_folders_named_as_images_are_no_images(tmp_path):
    touched(
        tmp_path / "a" / "1.png", tmp_path / "a" / "._1.png", tmp_path / "a" / ".thumbs" / "1.png",
        tmp_path / "a" / "dir.png" / "2.png",
    )  # fmt: skip
    assert read_folder(tmp_path)[0].paths == ("a/1.png", "a/dir.png/2.png")


def test_links_to_folders_are_followed_once(tmp_path):
    train = tmp_path / "train"
    touched(train / "a" / "own" / "1.png", train / "b" / "2.png", tmp_path / "pool" / "3.png",
            tmp_path / "other" / "x" / "4.png")  # fmt: skip
    (train / "a" / "linked").symlink_to(tmp_path / "pool")
    (train / "a" / "5.png").symlink_to(tmp_path / "pool" / "3.png")
    (train / "c").symlink_to(tmp_path / "other")
    # Round in a circle, twice to one place, and to folders above, where other classes are.
    (tmp_path / "pool" / "back").symlink_to(train / "a")
    (train / "a" / "again").symlink_to(train / "a" / "own")
    (train / "a" / "up").symlink_to("..")
    (tmp_path / "other" / "up").symlink_to(train)
    found, names = read_folder(train)
    assert names == ("a", "b", "c")
    assert found.paths == ("a/5.png", "a/linked/3.png", "a/own/1.png", "b/2.png", "c/x/4.png")
    assert found.labels == (0, 0, 0, 1, 2)


@pytest.mark.parametrize(
    ("target", "words"),
    [("nowhere", "a link that leads nowhere"), ("x.png", "Too many levels of symbolic links")],
)
@pytest.mark.parametrize("where", ["", "a"])
def test_links_that_lead_nowhere_are_refused(tmp_path, target, words, where):
    touched(tmp_path / "a" / "1.png")
    (tmp_path / where / "x.png").symlink_to(target)
    with pytest.raises(DataError, match=rf"x\.png: {words}"):
        read_folder(tmp_path)


def test_what_is_no_regular_file_is_refused(tmp_path):
    """Opening a pipe would wait for ever."""
    touched(tmp_path / "a" / "1.png")
    os.mkfifo(tmp_path / "a" / "2.png")
    with pytest.raises(DataError, match=r"2\.png: no regular file"):
        read_folder(tmp_path)


def test_folders_that_are_no_classes(tmp_path):
    with pytest.raises(DataError, match="one folder a class"):
        read_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no folder in it"):
        read_folder(tmp_path / "empty")
    (tmp_path / "empty" / "cat").mkdir()
    with pytest.raises(DataError, match=r"cat: no image"):
        read_folder(tmp_path / "empty")
    with pytest.raises(DataError, match="'cat' is not one of the training set's"):
        read_folder(tmp_path / "empty", classes=("dog",))


def test_a_byte_order_mark_is_no_part_of_a_path(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png 0\r\nb.png 1\r\n")
    assert read_list(tmp_path / "list.txt", root=tmp_path).paths == ("a.png", "b.png")


def test_absolute_paths_inside_the_root(tmp_path, monkeypatch):
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    file = tmp_path / "list.txt"
    for root in (real, tmp_path / "link"):
        file.write_text(f"{root}/a.png 0\n{real}/x/b.png 1\nc.png 1\n")
        assert read_list(file, root=root).paths == ("a.png", "x/b.png", "c.png")
    monkeypatch.chdir(tmp_path)
    file.write_text(f"a.png 0\n{real}/x/b.png 1\n")
    assert read_list(file, root=real.relative_to(tmp_path)).paths[1] == "x/b.png"
    for outside in (f"{tmp_path}/a.png", f"{real}/../a.png", str(real), f"{real}er/a.png"):
        file.write_text(f"{outside} 0\n")
        with pytest.raises(DataError, match="leaves the image root"):
            read_list(file, root=real)
    file.write_text(f"a.png 0\n{real}/a.png 1\n")
    with pytest.raises(DataError, match=r"a\.png stands twice"):
        read_list(file, root=real)
