"""Run folders become runs; broken ones become one-line problems and never exceptions."""

import json
import shutil

import pytest

from saddlescope.reporting import load_runs
from saddlescope.runs import METRIC_COLUMNS, RunFolder, write_text
from tests.reporting.conftest import COUNTS, METHODS, SWITCH


def test_a_folder_of_runs_stands_for_all_of_them(study):
    runs, problems = load_runs([study])
    assert sorted(run.method for run in runs) == sorted(METHODS)
    assert problems == []
    sse = next(run for run in runs if run.method == "sse-sam")
    assert sse.method_label == "SSE-SAM"
    assert sse.counts == COUNTS
    assert sse.switch_epoch == SWITCH
    assert sse.group("head") == [0, 1, 2, 3, 4]
    assert sse.group("nonsense") == []
    assert sse.recipe["training"]["epochs"] == sse.epochs == len(sse.metrics)
    assert "imbalance_factor" in sse.recipe_text
    assert len(sse.spectra) == 13


def test_a_folder_named_twice_is_read_once(study):
    runs, _ = load_runs([study / "sam-seed0", study / "sam-seed0", study])
    assert len(runs) == len(METHODS)


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("recipe.toml", None, "recipe.toml"),
        ("recipe.toml", "[[[", "TOML"),
        ("run.json", None, "missing"),
        ("run.json", "{", "JSON"),
        ("run.json", "[]", "object"),
    ],
)
def test_a_broken_folder_is_a_problem(make_run, file, content, word):
    path = make_run("sam")
    (path / file).unlink()
    if content is not None:
        (path / file).write_text(content)
    runs, problems = load_runs([path.parent])
    assert runs == []
    assert [problem.name for problem in problems] == ["sam-seed0"]
    assert word in problems[0].reason
    assert "\n" not in problems[0].reason
    assert str(path) not in problems[0].reason


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("metrics.jsonl", "{}\nnonsense\n{}\n", "metrics.jsonl:2"),
        ("spectrum/last-train.csv", "a,b\n1,2\n", "missing columns"),
        ("spectrum/last-train.csv", 'name,"' + "x" * 200_000 + '"', "field"),
    ],
)
def test_a_broken_table_costs_only_itself(make_run, file, content, word):
    path = make_run("sam")
    (path / file).write_text(content)
    runs, problems = load_runs([path])
    assert len(runs) == 1
    assert word in problems[0].reason


def test_what_is_not_there_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    runs, problems = load_runs([tmp_path / "gone", tmp_path / "empty"])
    assert runs == []
    assert [problem.name for problem in problems] == ["gone", "empty"]


def test_metrics_are_sorted_and_missing_columns_tolerated(make_run):
    path = make_run("sam")
    lines = [
        {"epoch": 1, "acc_avg": 0.5},
        {"epoch": 0, "acc_avg": 0.1},
        {"epoch": 1, "acc_avg": 0.6, "acc_few": "many"},
    ]
    write_text(path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    metrics = load_runs([path])[0][0].metrics
    assert list(metrics.columns) == list(METRIC_COLUMNS)
    assert metrics["epoch"].tolist() == [0, 1]
    assert metrics["acc_avg"].tolist() == [0.1, 0.6]
    assert metrics["acc_few"].isna().all()


def test_an_unfinished_run_is_shown_and_said(make_run):
    path = make_run("sam", info={"state": "interrupted", "epochs": 99})
    runs, problems = load_runs([path])
    assert len(runs) == 1
    assert "interrupted: 20 of 99 epochs" in problems[0].reason


def test_strange_values_in_run_json_do_not_raise(make_run):
    path = make_run(
        "sam",
        info={"seed": "x", "data": [1], "epochs": True, "switch_epoch": 1e999, "provenance": 3},
    )
    run = load_runs([path])[0][0]
    assert run.seed == 0  # the recipe's
    assert (run.counts, run.class_names, run.group("head")) == ([], [], [])
    assert (run.epochs, run.switch_epoch, run.provenance) == (None, None, {})


def test_a_run_without_metrics_or_spectrum_loads_empty(make_run):
    path = make_run("sam", spectrum=False)
    RunFolder(path).metrics_file.unlink()
    shutil.rmtree(path / "spectrum", ignore_errors=True)
    run = load_runs([path])[0][0]
    assert run.metrics.empty
    assert run.spectra.empty
