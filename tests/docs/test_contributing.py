"""What CONTRIBUTING says of a new method, loss and data set is all that each of them takes."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from saddlescope.runs import RunFolder, read_rows

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PLACE = re.compile(r"^# (saddlescope/[\w/]+\.py)(?:, (in|above) (\w+))?$", re.MULTILINE)
TRAINED = (
    "method.name=sam-head", "loss.name=tempered", "loss.temperature=3.0", "data.name=stripes",
    "data.imbalance_factor=10", "training.epochs=2",
)  # fmt: skip


def changes():
    """(file, "in" or "above" or nothing, name, code) of every change that CONTRIBUTING shows."""
    for block in re.findall(r"^  ```python\n(.*?)^  ```", TEXT, re.MULTILINE | re.DOTALL):
        _, *parts = PLACE.split(textwrap.dedent(block))
        yield from zip(parts[::4], parts[1::4], parts[2::4], parts[3::4], strict=True)


def put(package, file, where, name, code):
    path = package.parent / file
    if where is None:
        assert not path.exists()
        path.write_text(code.lstrip(), encoding="utf-8")
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (at,) = (i for i, line in enumerate(lines) if re.match(rf"{name}\b.*=", line))
    lines.insert(at + (where == "in"), textwrap.indent(code, "    ") if where == "in" else code)
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package with all that CONTRIBUTING adds."""
    copy = tmp_path_factory.mktemp("copy") / "saddlescope"
    shutil.copytree(ROOT / "saddlescope", copy, ignore=shutil.ignore_patterns("__pycache__"))
    for change in changes():
        put(copy, *change)
    return copy


def test_no_change_touches_more_than_two_files_of_code():
    blocks = re.findall(r"^  ```python\n(.*?)^  ```", TEXT, re.MULTILINE | re.DOTALL)
    counts = [len({found[0] for found in PLACE.findall(textwrap.dedent(b))}) for b in blocks]
    assert max(counts) == 2
    assert sum(count > 0 for count in counts) == 3


@pytest.mark.slow
def test_what_contributing_adds_is_trained_with(package, tmp_path):
    words = ["train", "package:digits-lt", "-o", str(tmp_path / "run"), "--device", "cpu"]
    words += [word for key in TRAINED for word in ("--set", key)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "saddlescope", *words], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(package.parent)}, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = RunFolder(tmp_path / "run")
    about = folder.run()
    assert (about["method"], about["loss"], about["data"]["name"]) == (
        "sam-head", "tempered", "stripes"
    )  # fmt: skip
    assert max(about["data"]["counts"]) == 10 * min(about["data"]["counts"]) == 40
    rows = read_rows(folder.metrics_file)
    assert len(rows) == 2
    assert rows[1]["train_loss"] < rows[0]["train_loss"]


@pytest.mark.slow
def test_a_new_method_ascends_as_its_record_says(package):
    code = (
        "from saddlescope.runs import RadiusOptions\n"
        "from saddlescope.sharpness import method_radii\n"
        "radii = method_radii('sam-head', epochs=3, options=RadiusOptions(rho_head=0.3))\n"
        "assert radii.at(0) == {'head': 0.3, 'tail': 0.0}, radii\n"
        "assert radii.passes(0) == (2, 3), radii.passes(0)\n"
        "from saddlescope.reporting.text import method_label\n"
        "assert method_label('sam-head') == 'SAM (head)'\n"
    )
    subprocess.run(
        [sys.executable, "-P", "-c", code], check=True, cwd=package.parent,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
    )  # fmt: skip
