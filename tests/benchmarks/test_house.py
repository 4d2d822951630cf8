"""The count of the house, on a package small enough to count by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.house import PACKAGE, measure

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "__init__.py": '"""Do nothing."""\n',
    "errors.py": "",
    # 4 lines of code; one comment of its own and one behind code; a noqa says nothing.
    "curvature/__init__.py": (
        '"""Offer."""\n\n# Why.\nfrom pkg.curvature.ends import find_ends  # noqa: F401\n'
    ),
    "curvature/ends.py": (
        '"""What ends\nare."""\nfrom typing import Any\n\n'
        "def find_ends(H, a, b, c, d, e, f, g, **options: Any):  # eight and loose\n"
        '    """Of H."""\n    text = """two\n    lines"""\n    return hasattr(H, "x"), text\n'
    ),
    "curvature/inner/__init__.py": "",
    "curvature/inner/deep.py": "from .. import find_ends\nfrom ...runs.folder import Folder\n",
    "runs/__init__.py": "",
    "runs/folder.py": (
        "class Folder:\n"
        "    def _write(self, a, b, c, d, e, f, g, **kwargs: int): ...\n"
        "    def _loose(self, **rest: 'Any'): ...\n"
        "    def read(self):\n"
        '        """Read it, whether or not it is there."""\n'
        "        from pkg.curvature import find_ends\n"
        "        import pkg.curvature.inner.deep, os\n"
    ),
    "cli/__init__.py": "",
    "cli/main.py": "def main(a, b, c, d, e, f, g, h, i): ...\nfrom pkg import errors\n",
    "runs/long.py": "x = 1\n" * 351,
}


@pytest.fixture
def package(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pkg"


def test_every_row_of_a_small_package(package):
    figures, places = measure(package)
    assert figures == {
        "lines": 1 + 4 + 9 + 2 + 7 + 2 + 351,
        # ends.py: import, def, the two lines of a string that is no docstring, return
        "lines of code": 1 + 5 + 2 + 6 + 2 + 351,
        "percent of lines with a comment": round(100 * 2 / 376, 2),
        "functions outside cli with 8 or more parameters": 1,
        "most parameters of a function outside cli": 8,
        "**options: Any, public": 1,
        "**options: Any, private": 1,
        "hasattr in curvature": 1,
        "hasattr per 1,000 lines of curvature": round(1000 / 15, 2),
        "modules over 350 lines": 1,
        "public docstrings without a verb": 2,
        # deep.py into runs, folder.py twice into curvature; cli imports a file of no room
        "imports between rooms": 3,
        "imports between rooms past a door": 2,
        "imports within rooms": 0,
        "imports within rooms past a door": 0,
        "modules in an import circle": 2,
    }
    assert places["imports between rooms past a door"] == [
        "pkg.curvature.inner.deep:2 pkg.runs.folder",
        "pkg.runs.folder:7 pkg.curvature.inner.deep",
    ]
    assert places["modules over 350 lines"] == ["pkg.runs.long"]


def test_within_a_room_only_the_inner_door_counts(package):
    (package / "curvature" / "inner" / "__init__.py").write_text("def make(): ...\n")
    (package / "curvature" / "outer.py").write_text(
        "from .inner import make\nfrom .inner.deep import Folder\nfrom .ends import find_ends\n"
    )
    figures, places = measure(package)
    assert figures["imports within rooms"] == 2
    assert places["imports within rooms past a door"] == [
        "pkg.curvature.outer:2 pkg.curvature.inner.deep"
    ]


def test_a_circle_is_gone_when_one_import_goes(package):
    (package / "runs" / "folder.py").write_text("class Folder: ...\n")
    assert measure(package)[0]["modules in an import circle"] == 0


def test_the_command_names_the_places_of_a_row(package):
    def said(*options):
        line = [sys.executable, "-m", "benchmarks.house", str(package), *options]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)

    assert json.loads(said("--json").stdout) == measure(package)[0]
    assert said("--list", "hasattr in curvature").stdout == "pkg.curvature.ends:9\n"
    assert "expected one of" in said("--list", "nothing").stderr


def test_this_package_has_no_circle_and_no_long_module():
    figures, places = measure(PACKAGE)
    assert figures["lines"] > 10_000
    assert figures["modules in an import circle"] == 0
    assert places["modules over 350 lines"] == []
