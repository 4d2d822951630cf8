"""Every notebook runs, in quick mode, as a user would run it: from its folder, on the library."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from tests import fresh

ANALYSIS = Path(__file__).parents[2] / "analysis"
NOTEBOOKS = sorted(ANALYSIS.glob("[0-9]*.py"))

# Agg shows nothing and says so at every plt.show().
STRICT = """
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive", UserWarning)
"""


def environment(tmp_path):
    scripts = str(Path(sys.executable).parent)
    return os.environ | {
        "SADDLESCOPE_QUICK": "1",
        "SADDLESCOPE_RUNS": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "PATH": scripts + os.pathsep + os.environ["PATH"],
    }


def test_all_seven_are_named_where_they_are_looked_for():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"0{number}" for number in range(1, 8)]
    readme = (ANALYSIS / "README.md").read_text(encoding="utf-8")
    pages = (ANALYSIS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert path.name in readme
        assert f"analysis/{path.stem}.ipynb" in pages


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_with_outputs_is_this_text(path):
    """`make notebooks` writes them; a changed cell has to be executed again."""
    kept = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    text = jupytext.read(path)
    assert [c.source for c in kept.cells] == [c.source for c in text.cells]
    outputs = [out for cell in kept.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert not [out for out in outputs if out.output_type == "error"]
    for data in (out.get("data", {}) for out in outputs):
        assert "image/png" in data or not data.get("text/plain", "").startswith("<Figure")
    written = path.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert not re.search(r"/(?:home|root|tmp|Users|work)/", written)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    done = fresh.run(path, cwd=ANALYSIS, before=STRICT, **environment(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_reads_as_an_essay(path):
    cells = jupytext.read(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert "For training" in cells[-1].source or "What it means" in cells[-1].source
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert all(len(source.splitlines()) <= 45 for source in code)
    for cell in cells:
        if cell.cell_type == "markdown":
            assert cell.source.count("$") % 2 == 0, cell.source
            # A formula broken over two lines may begin one with "+ " or "- ": a list to Markdown.
            lines = cell.source.replace("$$", "").splitlines()
            assert not any(line.count("$") % 2 for line in lines), cell.source


def test_written_with_outputs(tmp_path):
    text = tmp_path / "small.py"
    text.write_text(
        "# %% [markdown]\n# # A drawing\n\n# %%\n"
        "import os\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n\n"
        "# %%\nos.environ['SADDLESCOPE_QUICK']\n",
        encoding="utf-8",
    )
    command = [sys.executable, str(ANALYSIS / "execute.py"), "--quick", str(text)]
    subprocess.run(command, env=environment(tmp_path), check=True, capture_output=True, timeout=300)
    written = jupytext.read(text.with_suffix(".ipynb"))
    outputs = [output for cell in written.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert outputs[-1]["data"]["text/plain"] == "'1'"
    assert not any(output["output_type"] == "error" for output in outputs)


def test_a_notebook_that_fails_writes_nothing(tmp_path):
    text = tmp_path / "broken.py"
    text.write_text("# %%\nraise ValueError('broken on purpose')\n", encoding="utf-8")
    command = [sys.executable, str(ANALYSIS / "execute.py"), str(text)]
    done = subprocess.run(
        command, env=environment(tmp_path), check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "broken on purpose" in done.stderr
    assert not text.with_suffix(".ipynb").exists()
