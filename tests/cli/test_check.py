"""`saddlescope check` as a user meets it: streams, files and exit codes."""

import csv
import io
import json
import sys
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.curvature import extreme_eigenvalues
from saddlescope.errors import ExitCode
from saddlescope.measurement import CheckRow
from saddlescope.measurement.check import checking

MODULE = """
import torch
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
def dataset():
    torch.manual_seed(1)
    return torch.randn(30, 4), torch.tensor([0] * 14 + [1] * 10 + [2] * 6)
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Runs the command on a network from elsewhere, in this process."""
    (tmp_path / "checked.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("checked", None)
    target = ("--model", "checked:network", "--data", "checked:dataset", "--device", "cpu")

    def run(*arguments):
        return CliRunner().invoke(app, ["check", *target, *map(str, arguments)])

    return run


def test_csv_into_a_pipe_about_the_smallest_class(check):
    done = check()
    assert done.exit_code == ExitCode.OK, done.output
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == [field.name for field in fields(CheckRow)]
    assert {(row["kind"], row["name"], row["n"]) for row in rows} == {("class", "2", "6")}
    assert {row["agrees"] for row in rows[1:]} == {"True"}
    assert "agree" in done.stderr


def test_json_output_file_and_choice(check, tmp_path):
    path = tmp_path / "new" / "check.csv"
    done = check("--classes", "0", "--groups", "all", "--samples", 8, "--json", "-o", path)
    assert done.exit_code == ExitCode.OK, done.output
    rows = json.loads(done.stdout)
    assert list(dict.fromkeys((row["kind"], row["name"], row["n"]) for row in rows)) == [
        ("group", "all", 8), ("class", "0", 8),
    ]  # fmt: skip
    assert json.loads(path.with_suffix(".json").read_text()) == rows
    assert [row["tool"] for row in csv.DictReader(io.StringIO(path.read_text()))] == [
        row["tool"] for row in rows
    ]


def test_a_group_alone(check):
    done = check("--groups", "all", "--json")
    assert {row["kind"] for row in json.loads(done.stdout)} == {"group"}


def test_an_aligned_table_on_a_terminal(check, monkeypatch):
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("saddlescope.cli.check.sys", terminal)
    lines = check().stdout.splitlines()
    assert lines[0].startswith("class 2, 6 samples")
    assert any("largest magnitude only" in line for line in lines)
    assert max(map(len, lines)) <= 100


def test_a_contradiction_is_exit_code_1_and_named(check, monkeypatch):
    def shifted(operator, stop, **options):
        ends = extreme_eigenvalues(operator, stop, **options)
        low = ends.lambda_min
        return replace(ends, lambda_min=replace(low, lower=low.upper, upper=low.upper / 2))

    monkeypatch.setattr(checking, "extreme_eigenvalues", shifted)
    done = check()
    assert done.exit_code == ExitCode.FAILED
    assert "class 2: dense lies outside the interval of λ_min" in done.stderr
    assert "λ_max" not in done.stderr
    assert done.stdout.startswith("kind,name")


def test_not_converged_is_exit_code_3(check):
    done = check("--max-matvecs", 2)
    assert done.exit_code == ExitCode.NOT_CONVERGED
    assert "raise --max-matvecs" in done.stderr


def test_mistakes(check, tmp_path):
    for arguments, code, word in (
        (("--classes", "7"), ExitCode.DATA, "class 7"),
        (("--classes", "none"), ExitCode.USAGE, "nothing to measure"),
        (("--groups", "tail"), ExitCode.USAGE, "tail"),
        (("--rtol", "2"), ExitCode.USAGE, "rtol"),
        (("--samples", "0"), ExitCode.USAGE, "--samples"),
        (("--seed", "-1"), ExitCode.USAGE, "--seed"),
        (("--seed", str(1 << 63)), ExitCode.USAGE, "--seed"),
    ):
        done = check(*arguments)
        assert done.exit_code == code, done.output
        assert word in done.stderr
        assert done.stdout == ""
    done = CliRunner().invoke(app, ["check", str(tmp_path), "--device", "cpu"])
    assert done.exit_code == ExitCode.DATA
    assert "not a run folder" in done.stderr
