"""Atomic writes: the old content or the new, never half; standard JSON."""

import json
import os
import stat

import pytest

from saddlescope.runs.atomic import atomic_path, to_json, write_json, write_text


def test_failure_keeps_the_old_content_and_leaves_nothing(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half" * (1 // 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_and_permissions_are_usual(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "λ\n")
    assert path.read_bytes() == "λ\n".encode()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5], 3: None})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5], "3": None}


def test_json_takes_numpy_and_torch_scalars():
    import numpy as np
    import torch

    assert to_json([np.float64(1.5), torch.tensor(2)]) == "[1.5, 2]"
