"""The study's page says what its kept runs say, and every figure can be drawn of five methods."""

import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "analysis"))
import study
import study_results
import typer.main
from study_claims import claim_lines
from study_figures import FIGURES, escape_figure
from study_verdicts import verdict_text

from saddlescope.cli.console import number_list
from saddlescope.cli.main import app
from saddlescope.cli.sweep import unfinished
from saddlescope.cli.targets import asked_groups
from saddlescope.experiments import ESCAPE_COLUMNS
from saddlescope.reporting import load_runs
from saddlescope.runs import METHODS, RunFolder
from saddlescope.training import load_plan


@pytest.fixture(scope="module")
def kept():
    runs, problems = load_runs([study_results.KEPT])
    assert runs
    assert not problems
    losses = study_results.logged_losses(runs)
    return study_results.gather(runs), study_results.accuracies(runs), losses


def five_methods(rows, shots, seeds=(1, 2, 3)):
    """The kept rows again under every method and seed, with known factors."""
    rng = np.random.default_rng(0)
    tables, accuracy = [], []
    for place, arm in enumerate(list(study_results.ARMS)[:5]):
        for seed in seeds:
            factor = 2.0**place * np.exp(0.01 * rng.normal())
            one = rows[(rows.arm == "sgd") & (rows.seed == 1)].assign(arm=arm, seed=seed)
            one[["lambda_ratio", "lambda_ratio_lower", "lambda_ratio_upper"]] *= factor
            for column in ("lambda_max", "lambda_min", "loss"):
                one[column] *= np.exp(0.01 * rng.normal())
            way = one.assign(checkpoint="29", epoch=29)
            tables += [one, way]
            own = shots[(shots.arm == "sgd") & (shots.seed == 1)]
            few = 40.0 + place + 0.1 * rng.normal()
            accuracy.append(own.assign(arm=arm, seed=seed, few=few))
    return pd.concat(tables, ignore_index=True), pd.concat(accuracy, ignore_index=True)


def test_the_page_holds_what_the_runs_say(kept):
    page = study_results.PAGE.read_text(encoding="utf-8")
    for mark in study_results.MARKS:
        assert page.count(mark) == 1
    written = page.split(study_results.MARKS[0])[1].split(study_results.MARKS[1])[0]
    assert written.strip() == study_results.written(*kept)


def test_contrasts_find_the_factor_between_methods(kept):
    rows, shots = five_methods(*kept[:2])
    found = study_results.outcomes(rows, shots)["λ_ratio, class 9"]
    ratios = {(one.method, one.other): one.ratio for one in found}
    assert ratios["sam", "sgd"] == pytest.approx(2.0, rel=0.03)
    assert ratios["sse-sam", "sam-ext"] == pytest.approx(2.0, rel=0.03)
    assert ratios["sse-sam", "imbsam"] == pytest.approx(4.0, rel=0.03)


def test_contrasts_of_a_method_that_is_measured_in_part(kept):
    rows, shots = five_methods(*kept[:2])
    text = study_results.contrast_text(rows[(rows.arm != "sam") | (rows.name == "tail")], shots)
    line = next(line for line in text.splitlines() if line.startswith("| SAM / SGD |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert [bool(cell) for cell in cells[1:]] == [True] * 4 + [False] * 4


def test_claims_between_methods_are_counted_by_seed(kept):
    """Values rise by a factor, or a point, from SGD, SAM, ImbSAM, SAM (ext.) to SSE-SAM."""
    rows, shots = five_methods(*kept[:2])
    lines = {(key, text): rest for key, text, *rest in claim_lines(rows, shots, kept[2])}
    held, means = lines["P4", "few: SSE-SAM > ImbSAM > SAM"]
    assert held == "3 of 3"
    assert [word.rsplit(" ", 1)[0] for word in means.split(", ")] == ["SAM", "ImbSAM", "SSE-SAM"]
    assert lines["P3", "λ_ratio, class 9: ImbSAM > SSE-SAM > SAM (ext.)"][0] == "0 of 3"
    assert lines["P3", "λ_ratio, class 9: ImbSAM > SGD and SAM"][0] == "3 of 3"
    late = shots[(shots.epoch >= 42) & (shots.arm == "sam")]
    assert lines["P5", "few after the switch: SSE-SAM > ImbSAM"][0] == f"{len(late)} of {len(late)}"
    for method, factor in (("SAM", 2.0), ("SSE-SAM", 16.0)):
        text = f"{method}: λ_ratio of tail and class 9 not above SGD's, few-shot above"
        holds, values = lines["H3", text]
        assert holds == "no"
        assert float(values.split()[1].rstrip(",")) == pytest.approx(factor, rel=0.03)


def test_a_second_stage_is_compared_where_both_have_ended(kept):
    rows, shots = five_methods(*kept[:2])
    own = shots[shots.arm == "sse-sam"]
    for gap, verdict in ((0.5, "yes"), (-1.5, "no")):
        branch = own.assign(arm="sgd-then-imbsam", few=own.few + gap)
        lines = claim_lines(rows, pd.concat([shots, branch]), kept[2])
        ((held, values),) = [line[2:] for line in lines if line[0] == "H5"]
        assert held == verdict
        assert values == f"{gap:+.1f} points (by seed {', '.join([f'{gap:+.1f}'] * 3)})"
    assert not [line for line in claim_lines(rows, shots, kept[2]) if line[0] == "H5"]


def test_a_ratio_that_follows_the_loss_is_told_from_one_that_follows_the_method(kept):
    rows = kept[0].assign(loss=lambda of: of.gradient_norm)  # any spread of losses
    places = rows.arm.map(list(study_results.ARMS).index)
    for ratio, expected in ((3.0 / rows.loss, ["-1.00", "1.00", "17 of 17", "1.00 … 1.00"]),
                            (3.0 / (1.0 + places), ["1.00", "0 of 17"])):  # fmt: skip
        text = verdict_text(rows.assign(lambda_ratio=ratio))
        line = next(line for line in text.splitlines() if line.startswith("| tail | 19 |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        shown = [cells[2], *cells[5:6], *cells[7:]] if len(expected) == 4 else cells[6:8]
        assert shown == expected


def test_a_row_that_fails_is_counted(kept):
    rows = kept[0]
    before = verdict_text(rows)
    worse = rows.assign(lambda_min_upper=np.where(rows.name == "9", 1.0, rows.lambda_min_upper))
    count = len(study_results.at_the_end(rows))
    assert f"| H1 | λ_min < 0 | {count} of {count} |" in before
    nines = (study_results.at_the_end(rows)["name"] == "9").sum()
    assert f"| H1 | λ_min < 0 | {count - nines} of {count} |" in verdict_text(worse)


def test_a_kept_run_is_not_trained_again(tmp_path):
    plan = load_plan(study.RECIPE)
    study.spare(tmp_path)
    waiting = {run.name for run in unfinished(plan.runs, tmp_path)}
    kept = {run.name for run in study.finished(study.KEPT)}
    assert kept
    assert waiting == {recipe.run_name for recipe in plan.runs} - kept
    for name in kept:
        assert not (tmp_path / name / "checkpoints").exists()


def test_of_a_row_measured_twice_the_narrowest_interval_counts(tmp_path, monkeypatch):
    run = load_runs([study_results.KEPT])[0][0]
    shutil.copytree(study_results.KEPT / run.name, tmp_path / run.name)
    monkeypatch.setattr(study_results, "KEPT", tmp_path)
    before = study_results.gather([run])
    path = tmp_path / run.name / "spectrum" / "last-train.csv"
    table = pd.read_csv(path, dtype=str)
    wider, narrower = table.copy(), table.iloc[[0]].copy()
    wider["lambda_ratio_upper"] = "1000"
    narrower["lambda_ratio_lower"] = narrower["lambda_ratio"]
    others = [narrower.assign(parameters="layer3.*"), narrower.assign(weight_decay="0.1")]
    pd.concat([wider, table, narrower, *others]).to_csv(path, index=False)
    found = study_results.gather([run])  # without the other matrices
    assert sorted(found["name"]) == sorted(before["name"])
    last = found[found.checkpoint == "last"]
    assert last["lambda_ratio_upper"].max() < 1000
    assert (last["lambda_ratio_lower"] == last["lambda_ratio"]).sum() == 1


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_shows_every_method(kept, name):
    rows, _ = five_methods(*kept[:2])
    figure = FIGURES[name](rows)
    assert figure is not None
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        texts += [
            t.get_text() for t in (axes.get_legend().get_texts() if axes.get_legend() else [])
        ]
        texts += [label.get_text() for label in axes.get_yticklabels()]
    for method in ("SGD", "SAM", "ImbSAM", "SAM (ext.)", "SSE-SAM"):
        assert any(method in text for text in texts), (name, method)


def test_escapes_are_drawn_by_start_and_method():
    steps = pd.DataFrame(
        [
            dict.fromkeys(ESCAPE_COLUMNS, 1.0)
            | {"start": start, "method": method, "step": step, "along": -(2.0**step)}
            for start in ("checkpoint", "rank-deficient")
            for method in METHODS
            for step in range(3)
        ]
    )
    figure = escape_figure(steps)
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert [line.get_ydata().tolist() for line in axes.lines] == [[1.0, 2.0, 4.0]] * 5
    assert len(escape_figure(steps[steps.start == "checkpoint"]).axes) == 1


@pytest.mark.parametrize("name", ["study-sgd-seed1", "study-sgd-seed2"])
def test_every_measurement_is_a_command_that_saddlescope_takes(name, monkeypatch):
    run = RunFolder(study.KEPT / name)
    monkeypatch.setattr(RunFolder, "checkpoint", lambda *_: run.run_file)  # all of them are there
    found = list(study.commands(run, "FOLDER"))
    assert len(found) == len({tuple(words) for words in found}) >= 10
    for words in found:
        command = typer.main.get_command(app)
        while words and hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(command.name, list(words))  # raises on an unknown option or value


def test_a_stray_folder_is_named():
    with pytest.raises(SystemExit, match="pilot: not a run of the study"):
        study_results.arm_and_seed("pilot")


def test_its_commands_can_be_meant():
    """Groups and classes of every measurement are those that the command line knows."""
    runs = study.finished(study.KEPT)
    groups, classes = set(), set()
    for run in runs:
        for words in study.commands(run, "data"):
            options = dict(pairwise(words))
            if "--groups" in options:
                groups |= set(asked_groups(options["--groups"]))
                classes.add(options["--classes"])
    assert groups == {"tail", "all"}
    for text in classes - {"none"}:
        assert set(number_list(text)) <= set(range(10))
