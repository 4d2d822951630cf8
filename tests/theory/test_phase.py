"""The phase diagram: formula against simulated steps, checkpoints placed, and the figure."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.cli.theory import _STATEMENTS
from saddlescope.errors import DataError, ExitCode
from saddlescope.reporting import phase_figure
from saddlescope.runs import RunFolder, read_spectrum, write_spectrum
from saddlescope.theory import (
    STATEMENTS,
    bound_terms,
    displacement_region,
    distance_borders,
    distance_region,
    theorem1_border,
)
from saddlescope.theory.placing import COLUMNS
from saddlescope.theory.trajectories import Part, walk


def simulated(a, b):
    """The regions of both formulas, by taking the steps.

    Each pair is a quadratic with λ_min = −1, a flat direction that carries a gradient of length 1,
    and a component of 1e-9 along v_min.
    """
    gradient = np.tile([1e-9, 1.0], (len(a), 1))
    eigenvalues = np.tile([-1.0, 0.0], (len(a), 1))
    factors, moves = {}, {}
    for name, rho in (("sgd", np.zeros_like(b)), ("sam", b)):
        (_, (before,)), (moved, (after,)) = walk([Part(gradient, eigenvalues, rho)], a, 1)
        factors[name] = after[:, 0] / before[:, 0]
        moves[name] = np.abs(moved[:, 0])
    f, k = factors["sam"], factors["sgd"]
    distance = np.select(
        [(f >= 1) & (f <= k), (f >= 0) & (f < 1), (f >= -1) & (f < 0), (f >= -k) & (f < -1)],
        [0, 1, 2, 3],
        default=4,
    )
    return distance.astype(np.intp), (moves["sam"] > moves["sgd"]).astype(np.intp)


def test_formula_and_simulation_agree_but_on_borders():
    a, b = (
        x.ravel()
        for x in np.meshgrid(np.logspace(-3, 1, 401), np.logspace(-2, 4, 601), indexing="ij")
    )
    distance, displacement = simulated(a, b)
    wrong = distance != distance_region(a, b)
    assert wrong.mean() < 1e-3
    near = np.abs(np.log(b[wrong] / distance_borders(a[wrong]))).min(0, initial=np.inf)
    assert (near < 1e-6).all()
    assert (displacement != displacement_region(b)).mean() < 1e-3
    assert set(distance) == {0, 1, 2, 3, 4}


def test_theorem_1_lies_inside_the_last_region():
    a = np.logspace(-6, 2, 50)
    for mu in (1.0, 3.0):
        border = theorem1_border(a, mu)
        assert (distance_region(a, 1.001 * border) == 4).all()
        assert (displacement_region(border) == 1).all()


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sam"
    options = ("--set", "training.epochs=3", "--set", "method.name=sam", "-o", folder)
    assert command("train", "package:digits-lt", *options).exit_code == 0
    quick = ("--classes", "0,9", "--groups", "all", "--rtol", "0.2", "--threads", 1)
    assert command("spectrum", folder, *quick).exit_code in (0, 3)
    return folder


def test_a_checkpoint_is_placed_by_its_own_numbers(measured, tmp_path):
    figure = tmp_path / "phase.svg"
    done = command("theory", "phase", measured, "-o", figure, "--json")
    assert done.exit_code == 0, done.output
    import json

    rows = json.loads(done.stdout)
    assert set(rows[0]) == set(COLUMNS)
    spectrum = {
        row["name"]: row
        for row in read_spectrum(RunFolder(measured).spectrum_file("last", "train"))
    }
    assert rows
    for row in rows:
        of = spectrum[row["name"]]
        assert row["rho"] == 0.05
        assert row["norm_of"] == "row"
        assert row["a"] == pytest.approx(row["eta"] * -of["lambda_min"])
        assert row["b"] == pytest.approx(0.05 * -of["lambda_min"] / of["gradient_norm"])
        assert row["theorem1_possible"] == (row["b"] >= 2 + 3 / row["a"])
    assert "Theorem 1's hypothesis is possible in 0 of" in done.stderr
    text = figure.read_text()
    assert "<svg" in text
    assert "Displacement from" in text or "path" in text


def test_runs_are_found_below_a_folder_of_studies(measured, tmp_path):
    study = tmp_path / "runs" / "study"
    study.mkdir(parents=True)
    (study / "one").symlink_to(measured)
    done, direct = command("theory", "phase", tmp_path), command("theory", "phase", measured)
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == len(direct.stdout.splitlines())


def test_theorem_6_of_a_run(measured):
    done = command("theory", "theorem6", measured)
    assert done.exit_code == 0, done.output
    assert "vacuous: it is not below M" in done.stderr
    assert done.stdout.splitlines()[0].startswith("run,loss,lambda_max,rho,parameters,samples")


def test_theorem_6_holds_for_any_rho(measured):
    done = command("theory", "theorem6", measured, "--rho", "0.2", "--json")
    (row,) = json.loads(done.stdout)
    assert row["rho"] == 0.2
    curvature = 0.2**2 * math.sqrt(row["parameters"] / (4 * math.pi)) * row["lambda_max"]
    assert row["curvature"] == pytest.approx(curvature)


def test_theorem_6_is_not_told_of_another_matrix(measured, tmp_path):
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(measured, copy.path)
    file = copy.spectrum_file("last", "train")
    rows = read_spectrum(file)
    wrong = {"loss": 916.0, "lambda_max_upper": 84.7}
    others = [
        row | other | wrong
        for row in rows
        for other in ({"operator": "gauss-newton"}, {"weight_decay": 3.0}, {"parameters": "fc"})
    ]
    write_spectrum(file, [*others, *rows])
    expected = bound_terms(RunFolder(measured), weight_norm=1.0)
    assert bound_terms(copy, weight_norm=1.0) == expected
    digest = rows[0]["digest"].partition("-")[0]
    assert bound_terms(copy, weight_norm=1.0, weights=digest) == expected
    with pytest.raises(DataError, match=r"other weights than .* ends with"):
        bound_terms(copy, weight_norm=1.0, weights="0" * 12)
    write_spectrum(file, others)
    with pytest.raises(DataError, match="no row for the group 'all' of the Hessian"):
        bound_terms(copy, weight_norm=1.0)


def test_statements_are_commands_and_counts_are_data():
    assert set(_STATEMENTS) == set(STATEMENTS)
    done = command("theory", "theorem1", "--trials", "2000", "--json")
    assert done.exit_code == 0, done.output
    import json

    printed, line = json.loads(done.stdout)
    assert printed["trials"] == 2000
    assert printed["violations"] == 0
    assert printed["min_slack"] > 0
    assert set(printed["worst"]) >= {"dimension", "steps", "gradient", "eta", "rho", "mu"}
    assert line["hypothesis_met"] == 0
    done = command("theory", "proposition3", "--trials", "2000")
    header, first, *_ = done.stdout.splitlines()
    assert header == "statement,variant,trials,hypothesis_met,violations,min_slack,seconds"
    assert first.startswith("proposition3,as printed,2000,")
    assert int(first.split(",")[4]) > 0


def test_a_violation_of_what_is_true_fails(monkeypatch):
    from dataclasses import replace

    import saddlescope.theory as theory

    wrong = replace(STATEMENTS["proposition3"][0], expected=True)
    monkeypatch.setattr(theory, "STATEMENTS", {**STATEMENTS, "proposition3": (wrong,)})
    done = command("theory", "proposition3", "--trials", "2000")
    assert done.exit_code == ExitCode.FAILED
    assert "violated, although known to be true: as printed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("phase",), ExitCode.USAGE, "give run folders"),
        (("phase", "-o", "x.bmp"), ExitCode.USAGE, "end it in .svg"),
        (("phase", "nowhere"), ExitCode.DATA, "nowhere: no run folder"),
        (("theorem6", "nowhere"), ExitCode.DATA, "no run folder"),
        (("theorem6", "nowhere", "--rho", "1e-200"), ExitCode.USAGE, "--rho = 1e-200: expected"),
        (("theorem6", "nowhere", "--rho", "1e200"), ExitCode.USAGE, "--rho = 1e+200: expected"),
        (("theorem6", "nowhere", "--rho", "0"), ExitCode.USAGE, "--rho = 0: expected a number"),
    ],
)
def test_bad_input_is_one_line(arguments, code, words):
    done = command("theory", *arguments)
    assert done.exit_code == code
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("seed", ["-1", str(1 << 63)])
@pytest.mark.parametrize("name", ["theorem1", "escape", "gradients", "remark2", "eq2", "theorem6"])
def test_a_seed_that_torch_does_not_take_is_refused(name, seed):
    run = [] if name == "theorem1" else ["nowhere"]
    done = command("theory", name, *run, "--seed", seed)
    assert done.exit_code == ExitCode.USAGE
    assert "--seed" in done.stderr


def test_no_point_lies_outside_the_figure():
    """With momentum a step is η/(1 − β), and a = 33 was measured in mid-training."""
    rows = [
        {"a": a, "b": b, "kind": kind, "name": name, "run": "r", "split": "train", "epoch": 0}
        for a, b in ((33.0, 1e-5), (1e-9, 4e7), (1.0, np.inf))
        for kind, name in (("group", "tail"), ("class", "9"))
    ]
    for axes in phase_figure(pd.DataFrame(rows)).axes:
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        assert left <= 1e-9
        assert right >= 33.0
        assert low <= 1e-5
        assert high >= 4e7


@pytest.mark.parametrize("placed", [None, pd.DataFrame(columns=list(COLUMNS))])
def test_without_a_point_the_regions_are_drawn(placed):
    """No run may stand at a step: the columns of a table without rows hold objects."""
    assert all(axes.get_xlim()[0] > 0.0 for axes in phase_figure(placed).axes)
