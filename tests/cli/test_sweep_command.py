"""A sweep from the command line: the missing is run, the cut goes on, failures are named."""

import csv
import io
import json
import signal
import time

import torch

from saddlescope.errors import ExitCode
from saddlescope.runs import RunFolder, one_writer, read_rows, write_json
from saddlescope.training import load_checkpoint
from tests import fresh
from tests.cli.test_commands import command, refused, separate

SWEEP = """
extends = "package:digits-lt"
name = "s"
[training]
epochs = 2
[[sweep]]
"method.name" = ["sgd", "sam"]
"training.seed" = [0, 1]
"""
NAMES = ["s-sgd-seed0", "s-sgd-seed1", "s-sam-seed0", "s-sam-seed1"]


def recipe(tmp_path, text=SWEEP):
    path = tmp_path / "s.toml"
    path.write_text(text, encoding="utf-8")
    return path


def weights(folder):
    return load_checkpoint(RunFolder(folder).checkpoint("last"))["model"]


def test_a_dry_run_lists_every_run_and_their_sum(tmp_path):
    done = command("train", recipe(tmp_path), "--dry-run", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header == "run,epochs,images,steps,gradients,disk_mib"
    assert [row.split(",")[0] for row in rows] == NAMES
    assert "4 runs, 8 epochs" in done.stderr
    assert "12 gradients" in done.stderr  # 2·1 + 2·2 epochs' worth, twice
    assert not (tmp_path / "out").exists()


def test_a_dry_run_as_json_is_the_same_plan(tmp_path):
    arguments = ("train", recipe(tmp_path), "--dry-run", "-o", tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO(command(*arguments).stdout)))
    plan = json.loads(command(*arguments, "--json").stdout)
    assert [{key: str(value) for key, value in row.items()} for row in plan] == rows
    assert [row["run"] for row in plan] == NAMES


def test_a_sweep_runs_what_is_missing_and_equals_single_runs(tmp_path):
    path, out = recipe(tmp_path), tmp_path / "out"
    alone = command("train", path, "--only", NAMES[3], "-o", tmp_path / "alone")
    assert alone.exit_code == 0, alone.stderr
    first = separate("train", path, "-o", out, "--shard", "1/2", "--jobs", "2")
    assert first.returncode == 0, first.stderr
    assert first.stdout.split() == [str(out / name) for name in NAMES[::2]]
    second = separate("train", path, "-o", out, "--jobs", "2")
    assert second.returncode == 0, second.stderr
    assert "2 finished, 2 to do" in second.stderr
    assert [RunFolder(out / name).run()["state"] for name in NAMES] == ["finished"] * 4
    swept, single = weights(out / NAMES[3]), weights(tmp_path / "alone")
    assert all(torch.equal(swept[key], single[key]) for key in single)
    assert "trained 2 epochs" in (out / "logs" / f"{NAMES[3]}.log").read_text()
    done = RunFolder(out / NAMES[0])
    write_json(done.run_file, done.run() | {"data": done.run()["data"] | {"checksum": "other"}})
    refused(command("train", path, "-o", out), 4, str(done.path), "not the data")


def test_a_sweep_goes_on_from_the_run_that_shares_its_first_epochs(tmp_path):
    text = SWEEP.replace('["sgd", "sam"]', '["sam-ext", "sse-sam"]').replace("[0, 1]", "[0]")
    text = text.replace("epochs = 2", "epochs = 4\n[method]\ngamma = 0.5")
    path, out = recipe(tmp_path, text), tmp_path / "out"
    planned = command("train", path, "--dry-run", "-o", out)
    assert "2 runs, 6 epochs" in planned.stderr
    done = separate("train", path, "-o", out, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    branch = RunFolder(out / "s-sse-sam-seed0")
    assert branch.run()["branch"] == {"run": "s-sam-ext-seed0", "epochs": 2}
    alone = ("train", "package:digits-lt", "--set", "name=s", "--set", "method.name=sse-sam",
             "--set", "training.epochs=4", "--set", "method.gamma=0.5")  # fmt: skip
    named = separate(*alone, "-o", tmp_path / "named", "--branch", out / "s-sam-ext-seed0")
    assert named.returncode == 0, named.stderr
    whole = separate(*alone, "-o", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    for folder in (branch.path, tmp_path / "named"):
        one, two = weights(folder), weights(tmp_path / "whole")
        assert all(torch.equal(one[key], two[key]) for key in two)
    refused(
        command("train", path, "--branch", branch.path), ExitCode.USAGE, "--branch is for a single"
    )


def test_a_failed_run_is_named_and_the_others_finish(tmp_path):
    text = SWEEP.replace('"training.seed" = [0, 1]', '"optimizer.eta" = [0.01, 1e30]').replace(
        '["sgd", "sam"]', '["sgd"]'
    )
    out = tmp_path / "out"
    done = separate("train", recipe(tmp_path, text), "-o", out)
    assert done.returncode == ExitCode.FAILED
    assert "s-eta1e30-sgd-seed0: failed" in done.stderr
    assert "training loss became" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("1 of 2 runs failed: s-eta1e30-sgd-seed0")
    assert done.stdout.split() == [str(out / "s-eta0.01-sgd-seed0")]


def test_a_stopped_sweep_saves_and_goes_on(tmp_path):
    text = SWEEP.replace("epochs = 2", "epochs = 12").replace('["sgd", "sam"]', '["sam"]')
    path, out = recipe(tmp_path, text), tmp_path / "out"
    process = fresh.start("saddlescope", "train", path, "-o", out)
    metrics = RunFolder(out / "s-sam-seed0").metrics_file
    deadline = time.monotonic() + 120
    while not metrics.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == ExitCode.INTERRUPTED, process.stderr
    assert "the same command goes on" in process.stderr
    assert RunFolder(out / "s-sam-seed0").run()["state"] == "interrupted"
    done = separate("train", path, "-o", out)
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        rows = read_rows(RunFolder(out / f"s-sam-seed{seed}").metrics_file)
        assert [row["epoch"] for row in rows] == list(range(12))


def test_what_a_sweep_refuses(tmp_path):
    path = recipe(tmp_path)
    refused(command("train", path, "--force"), ExitCode.USAGE, "--force is for a single run")
    refused(command("train", path, "--monitor", "all"), ExitCode.USAGE, "--monitor is for")
    refused(command("train", path, "--only", "s-sgd-seed7"), ExitCode.USAGE, "did you mean s-sgd")
    single = ("train", path, "--only", NAMES[0])
    # Beside the others of its sweep, which would otherwise train it once more.
    assert f"would write runs/s/{NAMES[0]}" in command(*single, "--dry-run").stderr
    refused(command(*single, "--shard", "2/4"), ExitCode.USAGE, "--shard is for a recipe with")
    refused(command("train", "package:digits-lt", "--jobs", "2"), ExitCode.USAGE, "--jobs is for")
    refused(command("train", path, "--shard", "3/2"), ExitCode.USAGE, "expected K/N")
    out = tmp_path / "out"
    made = command("train", path, "--only", NAMES[0], "-o", out / NAMES[0])
    assert made.exit_code == 0, made.stderr
    other = command("train", path, "-o", out, "--set", "training.epochs=3")
    refused(other, ExitCode.USAGE, "holds a run of another recipe (training.epochs = 2, not 3)")


def test_one_process_writes_a_run_at_a_time(tmp_path):
    folder = tmp_path / "run"
    with one_writer(folder):
        done = separate("train", recipe(tmp_path), "--only", NAMES[0], "-o", folder)
        assert done.returncode == ExitCode.USAGE
        assert "another process is writing here" in done.stderr
    done = separate("train", recipe(tmp_path), "--only", NAMES[0], "-o", folder)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "s.toml"]
