"""Losses of head and tail at fixed weights, per-sample weights, and precision by recipe."""

from dataclasses import replace
from functools import partialmethod

import pytest
import torch

from saddlescope.errors import DataError, Interrupted, UsageError
from saddlescope.longtail import make_loss
from saddlescope.measurement import run_target
from saddlescope.runs import LOSS_COLUMNS, RunFolder, read_rows
from saddlescope.training import RunOptions, load_checkpoint, packaged_recipe, parse_recipe, train
from saddlescope.training.evaluate import training_losses
from saddlescope.training.network import training_network
from saddlescope.training.restore import load_section
from tests.longtail.pictures import write_lists


def digits(*overrides):
    return packaged_recipe("digits-lt", overrides=["training.epochs=4", *overrides])


def test_sums_and_means_are_those_of_the_whole_set():
    recipe = digits("loss.name=vs")
    data = load_section(recipe.data)
    model = training_network(recipe, num_classes=10, in_channels=1, device=torch.device("cpu"))
    criterion = make_loss("vs", data.counts, reduction="none")
    found = training_losses(model, criterion, data, batch_size=100)
    assert model.training
    with torch.no_grad():
        values = criterion(model.eval()(data.train.normalised()), data.train.labels).double()
    tail = torch.isin(data.train.labels, torch.tensor(data.groups["tail"]))
    assert found["loss"] == pytest.approx(float(values.mean()), rel=1e-6)
    assert found["loss_head_sum"] == pytest.approx(float(values[~tail].sum()), rel=1e-6)
    assert found["loss_tail_sum"] == pytest.approx(float(values[tail].sum()), rel=1e-6)
    assert found["loss_head"] == pytest.approx(float(values[~tail].mean()), rel=1e-6)
    assert found["loss_tail"] == pytest.approx(float(values[tail].mean()), rel=1e-6)


def test_they_are_logged_when_asked_change_nothing_and_survive_a_cut(tmp_path):
    recipe, data = digits("training.losses_every=2"), load_section(digits().data)
    one = train(recipe, data, RunFolder(tmp_path / "one"))
    rows = read_rows(one.losses_file)
    assert [row["epoch"] for row in rows] == [1, 3]
    assert set(rows[0]) == set(LOSS_COLUMNS)
    plain = train(digits(), data, RunFolder(tmp_path / "plain"))
    assert not plain.losses_file.exists()
    left, right = (load_checkpoint(f.checkpoint("last"))["model"] for f in (one, plain))
    assert all(torch.equal(left[key], right[key]) for key in left)

    two, taken = RunFolder(tmp_path / "two"), []

    def stop():
        taken.append(1)
        return len(taken) == 14 * 2 + 3

    with pytest.raises(Interrupted):
        train(recipe, data, two, RunOptions(should_stop=stop))
    with open(two.losses_file, "a") as handle:  # as if killed before the next checkpoint
        handle.write('{"epoch": 3}\n')
    train(recipe, data, two, RunOptions(resume=True))
    assert read_rows(two.losses_file) == rows


def files_recipe(epochs=1, **optimizer):
    return parse_recipe(
        {
            "name": "t",
            "data": {
                "name": "list", "train_list": "train.txt", "test_list": "test.txt",
                "image_size": 16, "tail_threshold": 3,
            },
            "model": {"name": "resnet8", "norm": "group"},
            "method": {"name": "sam-ext"},
            "optimizer": {"batch_size": 4, "momentum": 0.0, **optimizer},
            "training": {"epochs": epochs},
        },
        origin="test",
    )  # fmt: skip


def weights(folder):
    return load_checkpoint(folder.checkpoint("last"))["model"]


def weigh(root, name, value):
    """Give each line of the training list a weight."""
    lines = (root / "train.txt").read_text().splitlines()
    (root / name).write_text("".join(f"{line} {value(line)}\n" for line in lines))


def test_a_weight_of_two_is_a_step_twice_as_long(tmp_path):
    """Of SGD without weight decay; and a weight of 0 is a sample that is not there."""
    root = write_lists(tmp_path / "images", [4, 2])
    weigh(root, "two.txt", lambda line: 2.0)
    found = []
    for name, eta in (("train.txt", 0.02), ("two.txt", 0.01)):
        recipe = files_recipe(eta=eta, weight_decay=0.0)
        recipe = recipe.model_copy(
            update={
                "data": recipe.data.model_copy(update={"train_list": name}),
                "method": recipe.method.model_copy(update={"name": "sgd"}),
                "optimizer": recipe.optimizer.model_copy(update={"batch_size": 6}),
            }
        )
        data = load_section(recipe.data, root=root)
        found.append(weights(train(recipe, data, RunFolder(tmp_path / name))))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-5, atol=1e-7)


def test_training_from_files_resumes_to_the_same_bits(tmp_path):
    root = write_lists(tmp_path / "images", [8, 4, 2])
    recipe = files_recipe(epochs=3)
    data = load_section(recipe.data, root=root)
    whole = train(recipe, data, RunFolder(tmp_path / "whole"))
    taken = []

    def stop():
        taken.append(1)
        return len(taken) == 6

    cut = RunFolder(tmp_path / "cut")
    with pytest.raises(Interrupted):
        train(recipe, data, cut, RunOptions(should_stop=stop))
    train(recipe, load_section(recipe.data, root=root), cut, RunOptions(resume=True))
    assert all(torch.equal(value, weights(cut)[key]) for key, value in weights(whole).items())
    (row, *_) = read_rows(whole.metrics_file)
    assert row["images_per_s"] > 0


@pytest.mark.parametrize("override", ["training.precision=bf16", "training.channels_last=true"])
def test_precision_and_layout_change_rounding_alone(tmp_path, override):
    data = load_section(digits().data)
    options = ("training.epochs=1", "method.name=sse-sam", "optimizer.eta=0.01")
    rows = [
        read_rows(train(digits(*options, *more), data, RunFolder(tmp_path / name)).metrics_file)[0]
        for name, more in (("plain", ()), ("other", (override,)))
    ]
    assert rows[1]["train_loss"] == pytest.approx(rows[0]["train_loss"], rel=0.02)
    if "bf16" in override:
        assert rows[1]["train_loss"] != rows[0]["train_loss"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_takes_the_same_steps(tmp_path, monkeypatch):
    """ImbSAM and SAM (ext.) run backward twice through one compiled forward.

    Its graphs are captured and differentiated ahead, but no C++ is made of them, which takes
    minutes: test_fresh_process does that from the shell, with one backward pass, and
    sharpness/test_cost with one a group.
    """
    captured = partialmethod(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", captured)
    data = load_section(digits().data)
    options = ("training.epochs=1", "method.name=sam-ext", "model.norm=group")
    found = [
        train(digits(*options, *more), data, RunFolder(tmp_path / name))
        for name, more in (("plain", ()), ("compiled", ("training.compile=true",)))
    ]
    plain, compiled = (weights(folder) for folder in found)
    assert set(plain) == set(compiled)
    rows = [read_rows(folder.metrics_file)[0] for folder in found]
    assert rows[1]["train_loss"] == pytest.approx(rows[0]["train_loss"], rel=1e-3)


def test_weights_of_images_in_memory_count_too(tmp_path):
    """Samples of weight 0 leave the weights where they are; a set without them is smaller."""
    recipe = digits("training.epochs=1", "optimizer.weight_decay=0.0", "optimizer.momentum=0.0")
    data = load_section(recipe.data)
    nothing = replace(data, train=replace(data.train, sample_weights=torch.zeros(len(data.train))))
    folder = train(recipe, nothing, RunFolder(tmp_path / "run"))
    start = training_network(recipe, num_classes=10, in_channels=1, device=torch.device("cpu"))
    trained = weights(folder)
    assert all(torch.equal(p, trained[name]) for name, p in start.named_parameters())
    picked = nothing.train.select([3, 5]).to("cpu")
    assert picked.sample_weights.shape == (2,)
    with pytest.raises(DataError, match="sample_weights are"):
        replace(data.train, sample_weights=torch.zeros(3))


def test_a_spectrum_under_weighted_losses_is_refused(tmp_path):
    root = write_lists(tmp_path / "images", [4, 2])
    weigh(root, "train.txt", lambda line: 0.5)
    recipe = files_recipe()
    folder = train(recipe, load_section(recipe.data, root=root), RunFolder(tmp_path / "run"))
    assert run_target(folder, data_root=root).identity["criterion"] == "ce"
    with pytest.raises(UsageError, match="has a weight a sample"):
        run_target(folder, criterion="training", data_root=root)


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["sgd", "imbsam", "sse-sam"])
def test_the_fast_settings_train_on_cuda(tmp_path, method):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    data = load_section(digits().data)
    fast = ("precision=bf16", "channels_last=true", "compile=true")
    options = ("training.epochs=2", f"method.name={method}", "data.augment=true")
    losses = [
        read_rows(
            train(
                digits(*options, *more), data, RunFolder(tmp_path / name), RunOptions(device="cuda")
            ).metrics_file
        )[-1]["train_loss"]
        for name, more in (("plain", ()), ("fast", [f"training.{key}" for key in fast]))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
