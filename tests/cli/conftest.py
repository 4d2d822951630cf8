"""A user's own module, beside which the command is called."""

import sys

import pytest

from tests.cli.foreign import SOURCE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "exits.py").write_text("import sys\nsys.exit('no GPU')\n")
    (tmp_path / "typo.py").write_text("import torch\nx = torhc.ones(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mine", "exits", "typo"):
        sys.modules.pop(name, None)
    yield tmp_path
    sys.modules.pop("mine", None)
