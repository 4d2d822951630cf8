"""The command as a user meets it: exit codes, stdout for data, stderr for words."""

import csv
import io
import json
import pickle
import subprocess
import sys
import time
import tomllib

import pytest
import torch
from typer.testing import CliRunner

import saddlescope
from saddlescope.cli.main import app
from saddlescope.errors import ExitCode
from saddlescope.longtail import DATASETS
from saddlescope.runs import SPECTRUM_COLUMNS, read_view, view_file
from saddlescope.training.checkpoints import load_checkpoint, save_checkpoint
from tests import fresh

TINY = ["--set", "training.epochs=1"]


def command(*arguments, env=None):
    """Run the command in this process; its streams come back apart."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


def separate(*arguments, cwd=None):
    """Run the command in a process of its own."""
    return fresh.run("saddlescope", *arguments, cwd=cwd or ".")


def refused(done, code, *words):
    """One clear line on stderr, nothing on stdout, the right exit code."""
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    lines = [
        line
        for line in done.stderr.splitlines()
        if not line.startswith(("device:", "digits", "products:"))
    ]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    done = command("train", "package:digits-lt", *TINY, "-o", folder)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(folder)
    return folder


@pytest.mark.parametrize("arguments", ["--help", "spectrum --help", "--version"])
def test_version_and_help_do_not_import_torch(arguments):
    code = f"""
import sys
sys.argv = ["saddlescope", *{arguments.split()!r}]
from saddlescope.cli.main import run
try:
    run()
except SystemExit as end:
    assert not end.code
heavy = {{"torch", "pandas", "numpy", "matplotlib", "scipy"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    if arguments == "--version":
        assert done.stdout.strip() == f"saddlescope {saddlescope.__version__}"


def test_no_arguments_shows_help():
    assert "spectrum" in command().stdout


def test_spectrum_prints_csv_into_a_pipe_and_saves_it(run):
    done = command("spectrum", run, "--classes", "0,8-9", "--groups", "none", "--rtol", "0.1")
    assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["name"] for row in rows] == ["0", "8", "9"]
    assert list(rows[0]) == list(SPECTRUM_COLUMNS)
    saved = (run / "spectrum" / "last-train.csv").read_text()
    assert saved == done.stdout
    again = command("spectrum", run, "--classes", "0,8-9", "--groups", "none", "--rtol", "0.1")
    assert again.stdout == done.stdout
    assert again.stderr.count("already measured") == 3


def test_spectrum_json_and_output_file(run, tmp_path):
    path = tmp_path / "x" / "table.csv"
    done = command(
        "spectrum", run, "--classes", "9", "--groups", "none", "--json", "-o", path, "--rtol", "0.1"
    )
    (row,) = json.loads(done.stdout)
    assert row["n"] == 6
    assert row["converged"] is True
    assert path.is_file()
    assert path.with_suffix(".json").is_file()


def test_spectrum_with_views(run, tmp_path):
    path = tmp_path / "t.csv"
    arguments = (
        "spectrum", run, "--classes", "9", "--groups", "none", "--rtol", "0.1", "-o", path,
        "--with", "trace, alignments", "--probes", "2",
    )  # fmt: skip
    plan = command(*arguments, "--dry-run")
    assert "with trace: about 4 gradients a row" in plan.stderr
    assert not path.exists()
    done = command(*arguments)
    assert done.exit_code == 0, done.stderr
    assert f"views: {tmp_path / 't.views'}: trace, alignments" in done.stderr
    (record,) = read_view(view_file(path, "trace"))
    assert (record["name"], record["probes"], record["settings"]) == ("9", 2, "probes=2")
    vectors = [r["vector"] for r in read_view(view_file(path, "alignments"))]
    assert vectors == ["gradient", "sgd", "sam", "imbsam", "sam-ext", "sse-sam", "sse-sam"]
    again = command(*arguments)
    assert "class 9: trace already there" in again.stderr
    assert again.stdout == done.stdout


def test_spectrum_of_several_seeds_and_of_another_matrix(run, tmp_path):
    path = tmp_path / "t.csv"
    arguments = ("spectrum", run, "--classes", "9", "--groups", "none", "--rtol", "0.1", "-o", path)
    done = command(*arguments, "--seed", "0,2")
    assert done.exit_code == 0, done.stderr
    assert [row["seed"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["0", "2"]
    done = command(
        *arguments, "--operator", "gauss-newton", "--parameters", "*.bias", "--parameters",
        "*.weight", "--weight-decay", "0.25", "--atol", "1e-4",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["operator"], row["parameters"]) == ("gauss-newton", "*.bias,*.weight")
    # Positive semidefinite, moved up by the L2 term.
    assert float(row["lambda_min"]) == pytest.approx(0.25, abs=0.02)
    assert "atol=0.0001" in row["settings"]
    assert len(path.read_text().splitlines()) == 4


def test_bootstrap_says_what_it_skipped(tmp_path, monkeypatch):
    (tmp_path / "lonely.py").write_text(
        "import torch\n"
        "def net():\n    torch.manual_seed(0); return torch.nn.Linear(3, 2)\n"
        "data = (torch.arange(12.).reshape(4, 3), torch.tensor([0, 0, 0, 1]))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ("spectrum", "--model", "lonely:net", "--data", "lonely:data")
    refused(command(*arguments, "--with", "bootstrap"), ExitCode.USAGE, "name the table with -o")
    done = command(*arguments, "--with", "bootstrap", "-o", "t.csv")
    assert done.exit_code == 0, done.stderr
    assert "bootstrap skipped: class '1' has 1 sample" in done.stderr


def test_not_converged_is_exit_code_3_and_still_a_table(run, tmp_path):
    done = command(
        "spectrum", run, "--classes", "0", "--groups", "none", "--max-matvecs", "3",
        "-o", tmp_path / "t.csv",
    )  # fmt: skip
    assert done.exit_code == ExitCode.NOT_CONVERGED
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert row["verdict"] == "not-converged"
    assert "not converged after 3 products: class 0" in done.stderr


def test_spectrum_dry_run_computes_nothing(run, tmp_path):
    done = command("spectrum", run, "--dry-run", "-o", tmp_path / "t.csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["name"], row["n"]) for row in rows[:4]] == [
        ("all", "438"), ("head", "370"), ("tail", "68"), ("0", "130"),
    ]  # fmt: skip
    assert "the basis takes" in done.stderr
    sizes = {key: float(value) for key, value in rows[0].items() if key.endswith("_mib")}
    assert sizes["basis_mib"] > 1
    rest = sizes["basis_mib"] + sizes["retained_mib"]
    larger = max(sizes["work_mib"], sizes["reference_mib"])
    assert sizes["peak_mib"] == pytest.approx(rest + larger, abs=0.2)
    assert not (tmp_path / "t.csv").exists()


def test_spectrum_dry_run_as_json_is_the_same_plan(run, tmp_path):
    arguments = ("spectrum", run, "--dry-run", "-o", tmp_path / "t.csv")
    rows = list(csv.DictReader(io.StringIO(command(*arguments).stdout)))
    plan = json.loads(command(*arguments, "--json").stdout)
    assert [{key: str(value) for key, value in row.items()} for row in plan] == rows


def test_train_dry_run_prints_a_recipe_and_writes_nothing(tmp_path):
    done = command("train", "package:digits-lt", "--dry-run", "-o", tmp_path / "run")
    assert "[optimizer]" in done.stdout
    assert "438 training images" in done.stderr
    assert not (tmp_path / "run").exists()


def test_train_dry_run_as_json_is_the_same_recipe(tmp_path):
    arguments = ("train", "package:digits-lt", "--dry-run", "-o", tmp_path / "run")
    found = json.loads(command(*arguments, "--json").stdout)
    assert found == {
        "folder": str(tmp_path / "run"),
        "recipe": tomllib.loads(command(*arguments).stdout),
    }
    refused = command("train", "package:digits-lt", "--json", "-o", tmp_path / "run")
    assert refused.exit_code == 2
    assert "--json is for --dry-run" in refused.stderr


def test_data_inspect():
    done = command("data", "inspect", "digits", "--json")
    assert json.loads(done.stdout)["counts"][0] == 130
    assert "sha256" in command("data", "inspect", "digits").stdout
    shown = command("data", "inspect", "--help").stdout
    assert all(name in shown for name in DATASETS)
    assert command("data", "inspect", "digits", "--imbalance-factor", "0").exit_code == 2


def test_network_from_elsewhere_found_beside_the_user(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def net():\n    torch.manual_seed(0); return torch.nn.Linear(3, 2)\n"
        "data = (torch.arange(12.).reshape(4, 3), torch.tensor([0, 1, 0, 1]))\n"
    )
    arguments = ("spectrum", "--model", "mine:net", "--data", "mine:data", "--groups", "all")
    done = separate(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4


class TestRefusals:
    def test_missing_data_folder(self, tmp_path):
        env = {"SADDLESCOPE_DATA": None}
        recipe = tmp_path / "r.toml"
        recipe.write_text(
            'extends = "package:digits-lt"\n[data]\nname = "cifar10"\nimbalance_factor = 100\n'
        )
        refused(command("train", recipe, env=env), ExitCode.DATA, "--data-root", "SADDLESCOPE_DATA")
        refused(
            command("train", recipe, "--data-root", tmp_path / "no", env=env), ExitCode.DATA, "no"
        )

    def test_truncated_and_hostile_pickles(self, tmp_path):
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        arguments = ("data", "inspect", "cifar10", "--data-root", tmp_path)
        batch = pickle.dumps({b"data": b"", b"labels": []}, protocol=2)
        for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
            (folder / name).write_bytes(batch[:9])
        refused(command(*arguments), ExitCode.DATA, "cifar-10-batches-py")

        class Payload:
            def __reduce__(self):
                import os

                return os.system, (f"touch {tmp_path}/owned",)

        for path in folder.iterdir():
            path.write_bytes(pickle.dumps(Payload(), protocol=2))
        refused(command(*arguments), ExitCode.DATA, "refused")
        assert not (tmp_path / "owned").exists()

    def test_unknown_recipe_key(self):
        done = command("train", "package:digits-lt", "--set", "method.roh=1")
        refused(done, ExitCode.USAGE, "method.roh", "did you mean 'rho'")

    @pytest.mark.parametrize("threshold", [1, 1000])
    def test_threshold_that_leaves_no_head_or_no_tail(self, tmp_path, threshold):
        done = command(
            "train", "package:digits-lt", "--set", f"data.tail_threshold={threshold}", "-o",
            tmp_path / "run",
        )  # fmt: skip
        refused(done, ExitCode.USAGE, str(threshold))
        assert not (tmp_path / "run").exists()

    @pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
    def test_cuda_asked_for_and_absent(self, run, tmp_path):
        done = command(
            "train", "package:digits-lt", *TINY, "--device", "cuda", "-o", tmp_path / "r"
        )
        refused(done, ExitCode.USAGE, "--device cuda", "0 CUDA devices")
        assert not (tmp_path / "r").exists()
        refused(command("spectrum", run, "--device", "cuda:3"), ExitCode.USAGE, "cuda:3")

    def test_unknown_device(self, run):
        refused(command("spectrum", run, "--device", "quantum"), ExitCode.USAGE, "quantum")

    def test_existing_run_folder(self, run):
        before = (run / "metrics.jsonl").read_bytes()
        done = command("train", "package:digits-lt", *TINY, "-o", run)
        refused(done, ExitCode.USAGE, "--resume or --force")
        assert (run / "metrics.jsonl").read_bytes() == before

    def test_class_without_samples(self, run):
        refused(command("spectrum", run, "--classes", "0,55"), ExitCode.DATA, "class 55", "0-9")

    @pytest.mark.parametrize("classes", ["zero", "1-", ""])
    def test_classes_that_are_no_numbers(self, run, classes):
        refused(command("spectrum", run, "--classes", classes), ExitCode.USAGE, "--classes")

    def test_unknown_group(self, run):
        refused(command("spectrum", run, "--groups", "middle"), ExitCode.USAGE, "middle", "medium")

    @pytest.mark.parametrize(
        ("option", "value", "word"),
        [
            ("--with", "hologram", "hologram"),
            ("--operator", "fisher", "fisher"),
            ("--parameters", "nothing.*", "nothing.*"),
            ("--weight-decay", "-1", "weight_decay"),
            ("--seed", "zero", "--seed zero: expected numbers"),
            ("--resamples", "3", "resamples = 3"),
        ],
    )
    def test_options_that_cannot_be_meant(self, run, option, value, word):
        refused(command("spectrum", run, option, value), ExitCode.USAGE, word)

    def test_no_run_folder(self, tmp_path):
        refused(command("spectrum", tmp_path), ExitCode.DATA, "not a run folder")

    def test_missing_checkpoint(self, run):
        refused(command("spectrum", run, "--checkpoint", "17"), ExitCode.DATA, "epoch-017.pt")

    def test_neither_run_nor_model(self):
        refused(command("spectrum"), ExitCode.USAGE, "run folder, or --model")

    def test_nan_weights(self, run, tmp_path):
        import shutil

        broken = tmp_path / "run"
        shutil.copytree(run, broken)
        last = broken / "checkpoints" / "last.pt"
        content = load_checkpoint(last)
        next(iter(content["model"].values()))[0] = torch.nan
        save_checkpoint(last, content)
        done = command("spectrum", broken, "-o", tmp_path / "t.csv")
        refused(done, ExitCode.FAILED, "NaN or Inf", "diverged")
        assert not (tmp_path / "t.csv").exists()

    def test_report_of_nothing(self, tmp_path):
        refused(command("report", tmp_path / "absent"), ExitCode.DATA, "no such folder")

    def test_click_usage_errors_are_2(self):
        assert command("train").exit_code == ExitCode.USAGE
        assert command("spectrum", "--rtoll", "1").exit_code == ExitCode.USAGE
        assert command("nonsense").exit_code == ExitCode.USAGE


def test_sigint_in_spectrum_keeps_finished_rows(run, tmp_path):
    path = tmp_path / "t.csv"
    process = fresh.start("saddlescope", "spectrum", run, "-o", path)
    while process.poll() is None and not path.exists():
        time.sleep(0.005)
    process.send_signal(2)
    assert process.wait(120) == ExitCode.INTERRUPTED
    assert "run again to go on" in process.stderr


def test_demo_end_to_end(tmp_path):
    # A small network: its 65 certified spectra would take minutes of a larger one.
    words = ("demo", "-o", tmp_path / "demo", *TINY, "--set", "model.name=two-layer-linear")
    done = command(*words)
    assert done.exit_code == 0, done.stderr
    assert "SSE-SAM" in done.stdout
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
    again = command(*words, "--jobs", "1")
    assert again.stdout == done.stdout
    report = command("report", tmp_path / "demo", "-o", tmp_path / "r.html")
    assert report.exit_code == 0, report.stderr
