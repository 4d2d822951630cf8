"""A run: what it leaves, how it goes on, what it refuses."""

import json
import math
import os
import shutil
import signal
import sys
import time

import pytest
import torch

from saddlescope.curvature import CurvatureMonitor
from saddlescope.errors import DataError, Interrupted, SaddlescopeError, UsageError
from saddlescope.longtail import ImageSamples
from saddlescope.runs import METHODS, METRIC_COLUMNS, RunFolder, read_rows
from saddlescope.training import (
    RunOptions,
    epoch_loss,
    load_checkpoint,
    packaged_recipe,
    restore_run,
    train,
)
from saddlescope.training.restore import load_section
from tests import fresh

SHORT = ("training.epochs=4", "method.name=sse-sam", "method.gamma=0.5", "data.augment=true")


def recipe(*overrides):
    return packaged_recipe("digits-lt", overrides=[*SHORT, *overrides])


@pytest.fixture(scope="module")
def data():
    return load_section(recipe().data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """An uninterrupted run."""
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    return train(recipe(), data, folder)


def weights(folder, which="last"):
    return load_checkpoint(folder.checkpoint(which))["model"]


def assert_same_run(one, two):
    for which in ("last", "best"):
        left, right = weights(one, which), weights(two, which)
        assert all(torch.equal(left[key], right[key]) for key in left)
    untimed = [
        [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in rows]
        for rows in (read_rows(one.metrics_file), read_rows(two.metrics_file))
    ]
    assert untimed[0] == untimed[1]


def test_norms_are_logged_and_change_nothing_and_survive_a_cut(tmp_path, data, whole):
    logged = recipe("training.norms_every=3")
    one = train(logged, data, RunFolder(tmp_path / "one"))
    left, right = weights(one), weights(whole)
    assert all(torch.equal(left[key], right[key]) for key in left)
    rows = read_rows(one.norms_file)
    steps = math.ceil(len(data.train) / logged.optimizer.batch_size)
    assert [row["epoch"] * steps + row["step"] for row in rows] == list(range(0, 4 * steps, 3))
    assert all(row["gradient_norm"] > 0 for row in rows)

    two, taken = RunFolder(tmp_path / "two"), []

    def stop():
        taken.append(1)
        return len(taken) == steps + 5

    with pytest.raises(Interrupted):
        train(logged, data, two, RunOptions(should_stop=stop))
    # As if killed after the next rows were written and before their checkpoint.
    with open(two.norms_file, "a") as handle:
        handle.write('{"epoch": 1, "step": 5}\n{"epoch": 2, "step": 0}\n')
    with open(two.metrics_file, "a") as handle:
        handle.write('{"epoch": 1}\n')
    train(logged, data, two, RunOptions(resume=True))
    assert read_rows(two.norms_file) == rows
    assert [row["epoch"] for row in read_rows(two.metrics_file)] == [0, 1, 2, 3]


def test_class_weights_come_in_the_epoch_that_the_recipe_says(tmp_path, data):
    """Until then the run is the plain one to the bit, from then on it is another."""
    late = recipe("training.checkpoint_every=1", "loss.reweight_from=0.75")
    plain = recipe("training.checkpoint_every=1")
    one, two = (train(r, data, RunFolder(tmp_path / n)) for r, n in ((late, "l"), (plain, "p")))
    same = []
    for epoch in range(4):
        left, right = weights(one, str(epoch)), weights(two, str(epoch))
        same.append(all(torch.equal(left[key], right[key]) for key in left))
    assert same == [True, True, True, False]
    logits, targets = torch.randn(5, data.num_classes), torch.arange(5)
    for epoch in range(4):
        plainly, weighted = (epoch_loss(r, data, epoch, reduction="none") for r in (plain, late))
        expected = plainly(logits, targets)
        if epoch == 3:
            expected = expected * weighted.class_weights[targets].float()
        torch.testing.assert_close(weighted(logits, targets), expected)


def test_run_folder_is_complete(whole, data):
    assert whole.recipe() == json.loads(json.dumps(recipe().model_dump(exclude_none=True)))
    run = whole.run()
    assert (run["state"], run["method"], run["switch_epoch"]) == ("finished", "sse-sam", 2)
    assert run["data"]["counts"] == list(data.counts)
    assert run["provenance"]["libraries"]["torch"]
    rows = read_rows(whole.metrics_file)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert [row["stage"] for row in rows] == [1, 1, 2, 2]
    assert all(tuple(row) == METRIC_COLUMNS for row in rows)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    head, tail = (sum(data.counts[c] for c in data.groups[g]) for g in ("head", "tail"))
    for row in rows:
        mean = (head * row["loss_head"] + tail * row["loss_tail"]) / (head + tail)
        assert row["train_loss"] == pytest.approx(mean)


def test_training_twice_gives_the_same_bits(whole, tmp_path, data):
    assert_same_run(whole, train(recipe(), data, RunFolder(tmp_path / "run")))


@pytest.mark.parametrize("steps", [1, 14, 20, 45])
def test_stopped_at_any_step_it_resumes_to_the_same_bits(whole, tmp_path, data, steps):
    folder, taken = RunFolder(tmp_path / "run"), 0

    def stop():
        nonlocal taken
        taken += 1
        return taken == steps

    with pytest.raises(Interrupted, match="--resume"):
        train(recipe(), data, folder, RunOptions(should_stop=stop))
    assert folder.run()["state"] == "interrupted"
    torch.manual_seed(99)  # what happens in between must not matter
    train(recipe(), data, folder, RunOptions(resume=True))
    assert_same_run(whole, folder)


@pytest.mark.parametrize("delay", [0.3, 0.9])
def test_kill_nine_resumes_to_the_same_bits(whole, tmp_path, data, delay):
    folder = RunFolder(tmp_path / "run")
    short = [word for override in SHORT for word in ("--set", override)]
    process = fresh.start("saddlescope", "train", "package:digits-lt", *short, "-o", folder.path)
    while process.poll() is None and not folder.metrics_file.exists():
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.wait()
    train(recipe(), data, folder, RunOptions(resume=True))
    assert_same_run(whole, folder)


def test_a_row_without_its_checkpoint_is_dropped(whole, tmp_path, data):
    """Killed between the metrics row and the checkpoint, the epoch is run again, once."""
    folder, taken = RunFolder(tmp_path / "run"), 0

    def stop():
        nonlocal taken
        taken += 1
        return taken == 20

    with pytest.raises(Interrupted):
        train(recipe(), data, folder, RunOptions(should_stop=stop))
    with open(folder.metrics_file, "a") as handle:
        handle.write(json.dumps(read_rows(folder.metrics_file)[-1] | {"epoch": 1}) + "\n")
        handle.write('{"epoch": 2, "sta')
    train(recipe(), data, folder, RunOptions(resume=True))
    assert_same_run(whole, folder)


@pytest.mark.parametrize("when", ["in an epoch", "between epochs"])
def test_a_folder_that_is_removed_meanwhile_does_not_come_back(tmp_path, data, when):
    folder, steps = RunFolder(tmp_path / "run"), iter(range(1000))

    def remove():
        shutil.rmtree(folder.path, ignore_errors=True)

    def stop():
        at = next(steps)
        if when == "in an epoch" and at == 20:
            remove()
        return at == 25

    options = RunOptions(
        should_stop=stop if when == "in an epoch" else lambda: False,
        on_epoch=lambda _: remove() if when == "between epochs" else None,
    )
    with pytest.raises(DataError, match=f"{folder.path}: removed while its run went on"):
        train(recipe(), data, folder, options)
    assert not folder.path.exists()


def test_a_finished_run_without_its_last_checkpoint_keeps_its_rows(whole, data, tmp_path):
    folder = RunFolder(shutil.copytree(whole.path, tmp_path / "run"))
    folder.checkpoint("last").unlink()
    before = folder.metrics_file.read_bytes()
    with pytest.raises(DataError, match="is finished and its last checkpoint is gone; --force"):
        train(recipe(), data, folder, RunOptions(resume=True))
    assert folder.metrics_file.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (("optimizer.batch_size=437",), True),  # 438 images, of a last feature map of 1×1
        (("optimizer.batch_size=438", "training.accumulate=438"), True),
        (("optimizer.batch_size=437", "model.norm=group"), False),
        (("optimizer.batch_size=436",), False),
    ],
)
def test_batchnorm_of_a_single_number_is_refused_before_the_first_step(
    tmp_path, data, monkeypatch, options, refused
):
    monkeypatch.setattr(
        sys.modules["saddlescope.training.trainer"], "take_up", None
    )  # nothing is written before
    of = recipe("model.name=resnet34", *options)
    says = "leave BatchNorm a single image" if refused else "NoneType"
    with pytest.raises(UsageError if refused else TypeError, match=says):
        train(of, data, RunFolder(tmp_path / "run"))


def test_finished_run_is_left_alone(whole, data):
    before = whole.checkpoint("last").stat().st_mtime_ns
    train(recipe(), data, whole, RunOptions(resume=True))
    assert whole.checkpoint("last").stat().st_mtime_ns == before


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(tmp_path, data, method):
    short = recipe("training.epochs=1", f"method.name={method}")
    folder = train(short, data, RunFolder(tmp_path / "run"))
    assert math.isfinite(read_rows(folder.metrics_file)[0]["train_loss"])


@pytest.mark.parametrize("reduction", ["group", "batch-tail-x2"])
def test_group_reductions_matter(tmp_path, data, whole, reduction):
    folder = train(recipe(f"method.group_reduction={reduction}"), data, RunFolder(tmp_path / "run"))
    key = next(iter(weights(folder)))
    assert not torch.equal(weights(folder)[key], weights(whole)[key])


def test_sse_sam_is_its_stages(tmp_path, data):
    """γ = 1 is SAM (ext.) and γ = 0 is ImbSAM, to the bit, through the whole loop."""
    for gamma, method in ((1.0, "sam-ext"), (0.0, "imbsam")):
        one = train(
            recipe(f"method.gamma={gamma}", "training.epochs=2"),
            data,
            RunFolder(tmp_path / f"staged-{method}"),
        )
        two = train(
            recipe(f"method.name={method}", "training.epochs=2"),
            data,
            RunFolder(tmp_path / method),
        )
        left, right = weights(one), weights(two)
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_restore_gives_the_trained_network(whole):
    run = restore_run(whole)
    assert (run.epoch, run.checkpoint, run.recipe) == (3, "last", recipe())
    assert not run.model.training
    state = run.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in weights(whole).items())
    assert restore_run(whole).digest == run.digest


def test_monitor_watches_and_changes_nothing_also_across_a_resume(tmp_path, data, whole):
    def watch():
        return CurvatureMonitor(
            torch.nn.CrossEntropyLoss(),
            ImageSamples(data.train, data.groups),
            groups=("tail",),
            every=2,
            rtol=0.1,
        )

    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    train(recipe(), data, one, RunOptions(monitor=watch()))
    assert_same_run(whole, one)
    rows = read_rows(one.monitor_file)
    assert [(row["epoch"], row["name"]) for row in rows] == [(0, "tail"), (2, "tail")]

    taken = 0

    def stop():
        nonlocal taken
        taken += 1
        return taken == 20

    with pytest.raises(Interrupted):
        train(recipe(), data, two, RunOptions(monitor=watch(), should_stop=stop))
    train(recipe(), data, two, RunOptions(monitor=watch(), resume=True))
    assert read_rows(two.monitor_file) == rows


def test_extra_checkpoints(tmp_path, data):
    folder = train(recipe("training.checkpoint_every=2"), data, RunFolder(tmp_path / "run"))
    names = sorted(path.name for path in folder.checkpoints.iterdir())
    assert names == ["best.pt", "epoch-001.pt", "epoch-003.pt", "last.pt"]
    assert restore_run(folder, checkpoint="1").epoch == 1


class TestRefusals:
    def test_existing_run(self, whole, data):
        with pytest.raises(UsageError, match="--resume or --force"):
            train(recipe(), data, whole)

    def test_resume_with_another_recipe(self, whole, data):
        with pytest.raises(UsageError, match=r"method\.rho = 0\.05, not 0\.5"):
            train(recipe("method.rho=0.5"), data, whole, RunOptions(resume=True))

    def test_folder_of_something_else(self, tmp_path, data):
        (tmp_path / "precious").write_text("x")
        for force in (False, True):
            with pytest.raises(UsageError, match="holds precious and is not a run folder"):
                train(recipe(), data, RunFolder(tmp_path), RunOptions(force=force))
        assert (tmp_path / "precious").read_text() == "x"

    def test_force_starts_anew(self, tmp_path, data):
        folder = train(recipe("training.epochs=1"), data, RunFolder(tmp_path / "run"))
        train(recipe("training.epochs=2"), data, folder, RunOptions(force=True))
        assert len(read_rows(folder.metrics_file)) == 2

    def test_a_schedule_that_stands_still(self, tmp_path, data):
        still = recipe("training.epochs=1", "optimizer.schedule=cosine-released")
        with pytest.raises(UsageError, match="step size 0 throughout"):
            train(still, data, RunFolder(tmp_path / "run"))
        assert not (tmp_path / "run").exists()

    def test_divergence_keeps_the_last_good_checkpoint(self, tmp_path, data):
        folder = RunFolder(tmp_path / "run")
        with pytest.raises(SaddlescopeError, match=r"loss became nan in epoch \d"):
            train(recipe("optimizer.eta=1e20"), data, folder)
        assert folder.run()["state"] == "diverged"
        assert not folder.checkpoint("last").exists()

    def test_broken_checkpoints(self, tmp_path, whole):
        folder = RunFolder(tmp_path / "run")
        folder.checkpoints.mkdir(parents=True)
        folder.recipe_file.write_text(recipe().to_toml())
        path = folder.checkpoint("last")
        with pytest.raises(DataError, match="no such checkpoint"):
            restore_run(folder)
        path.write_bytes(whole.checkpoint("last").read_bytes()[:5000])
        with pytest.raises(DataError, match="not readable as a checkpoint"):
            restore_run(folder)
        torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, path)
        with pytest.raises(DataError, match="not a checkpoint of this ResNet"):
            restore_run(folder)
        torch.save([1, 2], path)
        with pytest.raises(DataError, match="holds a list"):
            restore_run(folder)

    def test_hostile_checkpoint_is_not_run(self, tmp_path):
        class Payload:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path}/owned",)

        torch.save({"model": Payload()}, tmp_path / "bad.pt")
        with pytest.raises(DataError, match="refused"):
            load_checkpoint(tmp_path / "bad.pt")
        assert not (tmp_path / "owned").exists()


def test_sigterm_saves_and_exits_130(tmp_path, data, whole):
    folder = RunFolder(tmp_path / "run")
    short = [word for override in SHORT for word in ("--set", override)]
    process = fresh.start("saddlescope", "train", "package:digits-lt", *short, "-o", folder.path)
    while process.poll() is None and not folder.metrics_file.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert "go on with --resume" in process.stderr
    train(recipe(), data, folder, RunOptions(resume=True))
    assert_same_run(whole, folder)


def test_a_finished_run_is_restored_from_its_weights_alone(whole, tmp_path):
    from safetensors.torch import save_file

    folder = RunFolder(tmp_path / "kept")
    folder.checkpoints.mkdir(parents=True)
    for name in ("recipe.toml", "run.json", "metrics.jsonl"):
        (folder.path / name).write_bytes((whole.path / name).read_bytes())
    save_file(weights(whole), folder.checkpoints / "last.safetensors")
    one, two = restore_run(whole), restore_run(folder)
    assert (one.epoch, one.checkpoint, one.digest) == (two.epoch, two.checkpoint, two.digest)
    assert two.epoch == 3
