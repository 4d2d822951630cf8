"""`saddlescope train`: second stages, image files, TensorBoard, Slurm, full disks."""

import resource
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.cli.tensorboard import epoch_writer
from saddlescope.errors import ExitCode, Interrupted
from saddlescope.runs import RunFolder, read_rows
from saddlescope.training import RunOptions, packaged_recipe, train
from saddlescope.training.restore import load_section
from tests.longtail.pictures import write_lists

TINY = ["--set", "training.epochs=1"]


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(done, code, *words):
    assert done.exit_code == code, done.output
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first") / "run"
    done = command("train", "package:digits-lt", *TINY, "-o", folder)
    assert done.exit_code == 0, done.output
    return folder


def test_a_new_classifier_on_a_run(first, tmp_path):
    out = tmp_path / "lws"
    done = command("train", "--from", first, "--classifier", "lws", *TINY, "-o", out)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}\n"
    assert RunFolder(out).run()["method"] == "sgd+lws"
    assert command("spectrum", out, "--classes", "0", "--groups", "none").exit_code in (0, 3)
    done = command(
        "train", "--from", first, "--classifier", "tau-norm", "--tau", "0.5", "--dry-run"
    )
    assert "tau = 0.5" in done.stdout
    assert "would write runs/digits-lt-sgd-tau-norm-seed0" in done.stderr


def test_what_goes_together(first, tmp_path):
    refused(command("train"), ExitCode.USAGE, "give a recipe, or --from")
    refused(
        command("train", "package:digits-lt", "--from", first), ExitCode.USAGE, "one of the two"
    )
    refused(command("train", "--from", first), ExitCode.USAGE, "go together")
    refused(
        command("train", "--from", tmp_path, "--classifier", "crt"), ExitCode.DATA, "recipe.toml"
    )
    refused(command("train", "package:digits-lt", "--shard", "1/2"), ExitCode.USAGE, "--shard")
    second = ("train", "--from", first, "--classifier", "crt")
    refused(command(*second, "--only", "x"), ExitCode.USAGE, "--only is for a recipe with")
    refused(command(*second, "--tau", "0.2"), ExitCode.USAGE, "--tau goes with")
    recipe = ("train", "package:digits-lt")
    refused(command(*recipe, "--tau", "0.2"), ExitCode.USAGE, "--tau goes with")
    refused(command(*recipe, "--monitor-every", "3"), ExitCode.USAGE, "goes with --monitor")
    refused(command(*recipe, "--resume", "--force"), ExitCode.USAGE, "give one of them")
    no_momentum = ("--set", "optimizer.nesterov=true", "--set", "optimizer.momentum=0")
    refused(command(*recipe, *no_momentum), ExitCode.USAGE, "needs momentum")


def test_a_list_of_files_is_inspected_and_trained_on(tmp_path):
    root = write_lists(tmp_path / "images", [5, 3, 2])
    sheet = tmp_path / "sheet.png"
    lists = ("--train-list", "train.txt", "--test-list", "test.txt", "--tail-threshold", "3")
    done = command("data", "inspect", "list", *lists, "--data-root", root, "--sheet", sheet)
    assert done.exit_code == 0, done.output
    assert "as it is" in done.stdout
    assert "3 of 3 classes drawn" in done.stderr
    assert sheet.read_bytes()[:4] == b"\x89PNG"

    recipe = tmp_path / "files.toml"
    recipe.write_text(
        'name = "files"\n[data]\nname = "list"\ntrain_list = "train.txt"\ntest_list = "test.txt"\n'
        'image_size = 16\ntail_threshold = 3\n[model]\nname = "resnet8"\n[training]\nepochs = 1\n'
    )
    options = ("--data-root", root, "--workers", "0", "--cache", tmp_path / "cache")
    done = command("train", recipe, *options, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "decoding 10 images once" in done.stderr
    done = command("spectrum", tmp_path / "run", "--data-root", root, "--classes", "0")
    assert done.exit_code in (0, 3), done.output
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(
        'extends = "files.toml"\nname = "sweep"\n[[sweep]]\n"training.seed" = [0, 1]\n'
    )
    done = command("train", sweep, "--data-root", root, "--dry-run")
    assert "sweep-sgd-seed0,1,10,1,1.0," in done.stdout


def test_tensorboard_holds_every_epoch_once_after_a_cut(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, taken = RunFolder(tmp_path / "run"), []
    recipe = packaged_recipe("digits-lt", overrides=["training.epochs=3"])

    def stop():
        taken.append(1)
        return len(taken) == 14 * 2 + 5

    with epoch_writer(folder, wanted=True) as on_epoch, pytest.raises(Interrupted):
        train(
            recipe,
            load_section(recipe.data),
            folder,
            RunOptions(should_stop=stop, on_epoch=on_epoch),
        )
    assert len(read_rows(folder.metrics_file)) == 2
    options = ("--set", "training.epochs=3", "--tensorboard", "--resume", "-o", folder.path)
    assert command("train", "package:digits-lt", *options).exit_code == 0
    found = EventAccumulator(str(folder.path / "tensorboard"))
    found.Reload()
    rows = read_rows(folder.metrics_file)
    events = found.Scalars("train_loss")
    assert [event.step for event in events] == [0, 1, 2]
    assert [event.value for event in events] == pytest.approx([r["train_loss"] for r in rows])
    assert {"acc_few", "lr", "stage"} <= set(found.Tags()["scalars"])


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = command("train", "package:digits-lt", *TINY, "--tensorboard", "-o", tmp_path / "run")
    assert done.exit_code == ExitCode.USAGE
    assert "pip install 'saddlescope[tensorboard]'" in done.stderr
    assert not (tmp_path / "run").exists()


def _no_room():
    """Files of this process may not grow beyond 100 kB: a disk that is full, as far as it sees."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_the_last_good_checkpoint(tmp_path):
    out = tmp_path / "run"
    assert (
        command("train", "package:digits-lt", "--set", "training.epochs=1", "-o", out).exit_code
        == 0
    )
    kept = (out / "checkpoints/last.pt").read_bytes()
    assert len(kept) > 100_000
    done = subprocess.run(
        [
            sys.executable, "-c",
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "from saddlescope.cli.main import run\nrun()",
            "train", "package:digits-lt", "--set", "training.epochs=1", "--set", "training.seed=1",
            "-o", str(tmp_path / "full"),
        ],
        capture_output=True, text=True, preexec_fn=_no_room, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.FAILED, done.stderr
    assert "best.pt: cannot be written: File too large; there is no checkpoint yet" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "full/checkpoints").glob("*"))
    assert (out / "checkpoints/last.pt").read_bytes() == kept
