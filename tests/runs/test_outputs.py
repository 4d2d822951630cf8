"""A report or a figure replaces its like, and nothing of anybody else's unless told to."""

import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.errors import UsageError
from saddlescope.reporting import save_figure
from saddlescope.runs import refuse_foreign_output


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_our_own_pictures_are_replaced(tmp_path, kind):
    figure = Figure()
    figure.subplots().plot([1, 2])
    (path,) = save_figure(figure, tmp_path, "fig4", formats=[kind])
    refuse_foreign_output(path, force=False)


def test_a_page_of_somebody_is_not(tmp_path):
    path = tmp_path / "report.html"
    refuse_foreign_output(path, force=False)
    path.write_text("<html>mine</html>")
    with pytest.raises(UsageError, match=r"report\.html: is there .* --force"):
        refuse_foreign_output(path, force=False)
    refuse_foreign_output(path, force=True)
    path.write_text("")
    refuse_foreign_output(path, force=False)
    with pytest.raises(UsageError, match="is a folder"):
        refuse_foreign_output(tmp_path, force=False)
    refuse_foreign_output("/dev/null", force=True)


@pytest.mark.parametrize(
    "content",
    [
        "import saddlescope\n",
        "# Notes on saddlescope\n",
        "<!doctype html>\n<title>What saddlescope says</title>",
        "<?xml version='1.0'?><svg><text>saddlescope</text></svg>",
        "%PDF-1.4\n(saddlescope)",
    ],
)
def test_who_writes_about_us_keeps_the_file(tmp_path, content):
    path = tmp_path / "mine"
    path.write_text(content)
    with pytest.raises(UsageError, match="--force"):
        refuse_foreign_output(path, force=False)


def test_a_table_of_somebody_is_not(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,2,3\n")
    refuse_foreign_output(path, force=False, columns=["a", "b"])
    with pytest.raises(UsageError, match=r"t\.csv: is there .* --force"):
        refuse_foreign_output(path, force=False, columns=["b", "c"])
    path.write_text("tool\nsaddlescope\n")  # in a cell it says nothing
    with pytest.raises(UsageError, match="--force"):
        refuse_foreign_output(path, force=False, columns=["a", "b"])


WORDS = {
    "sheet": ["data", "inspect", "digits", "--sheet", "FILE.png"],
    "diagram": ["theory", "phase", "-o", "FILE.svg"],
    "tables": ["figure", "table3", "-o", "."],
}


@pytest.mark.parametrize("kind", WORDS)
def test_a_command_replaces_its_own_files_and_nobody_elses(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    words = WORDS[kind]
    for _ in range(2):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    (written, *_) = sorted(tmp_path.iterdir(), key=lambda path: path.suffix)
    written.write_text("mine")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert f"{written.name}: is there and was not written by saddlescope" in done.output
    assert written.read_text() == "mine"
    assert CliRunner().invoke(app, [*words, "--force"]).exit_code == 0
    assert written.read_bytes() != b"mine"
