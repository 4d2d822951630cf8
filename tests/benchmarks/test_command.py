"""`python -m benchmarks` and `saddlescope bench` as a user meets them."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from benchmarks import CLONE
from benchmarks.command import _tools
from saddlescope.cli import bench as door
from saddlescope.cli.main import app
from saddlescope.errors import ExitCode


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments), "--device", "cpu"])


def test_it_measures_prints_tables_and_goes_on(tmp_path):
    output = tmp_path / "bench.json"
    options = ("ends", "--cases", "mlp", "--tools", "saddlescope", "--seeds", 1, "-o", output)
    first = bench(*options, "--repeats", 1)
    assert first.exit_code == 0, first.output
    assert "| mlp | saddlescope |" in first.stdout
    units = json.loads(output.read_text())["units"]
    assert {key.split("/")[0] for key in units} == {"truth", "sweep", "ends"}
    again = bench(*options, "--repeats", 2, "--json")
    assert again.exit_code == 0
    more = json.loads(again.stdout)["units"]
    assert set(units) < set(more)
    assert all(more[key] == units[key] for key in units)


def test_outside_a_clone_the_command_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(door, "CLONE", tmp_path)
    found = bench("ends")
    assert found.exit_code == ExitCode.USAGE
    assert "clone the repository" in found.stderr


def test_the_benchmarks_own_command_explains_itself():
    words = [sys.executable, "-m", "benchmarks", "--help"]
    found = subprocess.run(words, cwd=CLONE, capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert "--repeats" in found.stdout
    assert "--repeats" in CliRunner().invoke(app, ["bench", "--help"]).stdout


def test_out_of_time_it_says_how_to_go_on(tmp_path):
    found = bench("ends", "--cases", "mlp", "--time-limit", 0, "-o", tmp_path / "bench.json")
    assert found.exit_code == 0
    assert "repeat the command" in found.stderr


def test_a_tools_own_name_is_that_tool_alone():
    assert [tool.key for tool in _tools("saddlescope")] == ["saddlescope"]
    assert [tool.key for tool in _tools("saddle")] == ["saddlescope", "saddlescope (bare)"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing",), "part 'nothing': expected ends"),
        (("launches",), "launches is measured on CUDA only"),
        (("ends", "--tools", "jax"), "tool 'jax'"),
        (("ends", "--cases", "resnet32-class-100"), "case 'resnet32-class-100'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(words, said, tmp_path):
    found = bench(*words, "-o", tmp_path / "bench.json")
    assert found.exit_code == ExitCode.USAGE
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("saddlescope:")]
    assert said in line
    assert not (tmp_path / "bench.json").exists()


def test_a_run_of_another_network_is_refused(tmp_path):
    run = tmp_path / "run"
    train = ["train", "train/digits-lt.toml", "-o", run, "--set", "training.epochs=1"]
    assert CliRunner().invoke(app, [*map(str, train), "--device", "cpu"]).exit_code == 0
    found = bench("ends", "--run", run, "-o", tmp_path / "bench.json")
    assert found.exit_code == ExitCode.USAGE
    assert "give one run of each of resnet32 and resnet34" in found.stderr


def test_the_fig4_script_stops_in_time_goes_on_and_keeps_what_is_small(tmp_path):
    def piece(minutes):
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.fig4", "sse-sam", "--device", "cpu",
             "--epochs", "3", "--minutes", str(minutes), "--work", str(tmp_path / "work"),
             "-o", str(tmp_path / "results"), "--set", "data.name=digits",
             "--set", "data.imbalance_factor=20", "--set", "model.name=two-layer-linear",
             "--set", "training.compile=false"],
            capture_output=True, text=True, check=False, cwd=CLONE,
        )  # fmt: skip

    stopped = piece(0.0)
    assert stopped.returncode == ExitCode.INTERRUPTED, stopped.stderr
    assert "repeat to go on" in stopped.stderr
    done = piece(5.0)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "results").iterdir()}
    assert written == {"fig4-sse-sam-accuracy.csv", "fig4-sse-sam-spectra.csv",
                       "fig4-sse-sam.json", "fig4-sse-sam-metrics.jsonl"}  # fmt: skip
    spectra = (tmp_path / "results" / "fig4-sse-sam-spectra.csv").read_text().splitlines()
    assert len(spectra) == 1 + 10 + 3
    assert str(tmp_path) not in (tmp_path / "results" / "fig4-sse-sam.json").read_text()
