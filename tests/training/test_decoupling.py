"""Second stages: cRT, LWS and tau-norm on a trained network, against their formulas."""

from pathlib import Path

import pytest
import torch

from saddlescope.errors import DataError, Interrupted, UsageError
from saddlescope.longtail import FileOptions, Thresholds, load_data
from saddlescope.models import ScaledClassifier
from saddlescope.runs import RunFolder, read_rows
from saddlescope.training import (
    RunOptions,
    load_checkpoint,
    packaged_recipe,
    restore_run,
    second_stage,
    train,
)
from saddlescope.training.decoupling import class_balanced_order, tau_normalise
from saddlescope.training.recipe import parse_recipe
from saddlescope.training.restore import load_section
from tests.longtail.pictures import write_lists, write_noise

SHORT = ("training.epochs=3", "method.name=sam", "loss.name=la")


@pytest.fixture(scope="module")
def data():
    return load_section(packaged_recipe("digits-lt").data)


@pytest.fixture(scope="module")
def first(tmp_path_factory, data):
    folder = RunFolder(tmp_path_factory.mktemp("first") / "run")
    return train(packaged_recipe("digits-lt", overrides=SHORT), data, folder)


def state(folder):
    return load_checkpoint(folder.checkpoint("last"))["model"]


def run(first, data, path, kind, *overrides, **options):
    recipe, start = second_stage(first.path, kind, overrides=overrides)
    return train(recipe, data, RunFolder(path), RunOptions(start=start, **options))


def test_the_order_draws_classes_alike_and_their_samples_alike():
    labels = torch.tensor([2] * 3 + [0] * 1000 + [1] * 50)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([class_balanced_order(labels, generator) for _ in range(30)])
    assert len(drawn) == 30 * len(labels)
    shares = labels[drawn].bincount() / len(drawn)
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.01, rtol=0)
    rare = drawn[labels[drawn] == 2].bincount(minlength=3)
    assert rare.min() > 0.9 * rare.sum() / 3
    assert set(drawn[labels[drawn] == 1].tolist()) == set(range(1003, 1053))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_rows_are_divided_by_a_power_of_their_lengths(tau):
    layer = torch.nn.Linear(4, 3).double()
    weight = layer.weight.detach().clone()
    tau_normalise(layer, tau)
    wanted = torch.stack([row / row.norm() ** tau for row in weight])
    torch.testing.assert_close(layer.weight.detach(), wanted, rtol=1e-12, atol=0)
    assert not layer.bias.any()


def test_crt_trains_a_new_classifier_and_nothing_else(first, data, tmp_path):
    folder = run(first, data, tmp_path / "crt", "crt", "training.epochs=2")
    before, after = state(first), state(folder)
    assert {key for key in after if not torch.equal(before[key], after[key])} == {
        "fc.weight",
        "fc.bias",
    }
    recipe = restore_run(folder).recipe
    assert recipe.method_key == folder.run()["method"] == "sam+crt"
    assert recipe.run_name == "digits-lt-sam-crt-seed0"
    assert recipe.loss.name == "la"
    rows = read_rows(folder.metrics_file)
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    # Class-balanced: head and tail have five classes each.
    assert recipe.training.epochs == 2


def test_crt_starts_from_a_classifier_of_its_own(first, tmp_path, data):
    def stop():
        return True

    with pytest.raises(Interrupted):
        run(first, data, tmp_path / "crt", "crt", "optimizer.eta=1e-12", should_stop=stop)
    assert not torch.allclose(
        state(RunFolder(tmp_path / "crt"))["fc.weight"], state(first)["fc.weight"]
    )


def test_lws_trains_one_factor_a_class(first, data, tmp_path):
    folder = run(first, data, tmp_path / "lws", "lws", "training.epochs=1")
    before, after = state(first), state(folder)
    assert set(after) - set(before) == {"fc.factors"}
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not torch.equal(after["fc.factors"], torch.ones(10))
    network = restore_run(folder).model
    assert isinstance(network.fc, ScaledClassifier)
    features = torch.randn(3, 64)
    wanted = after["fc.factors"] * (features @ before["fc.weight"].T + before["fc.bias"])
    torch.testing.assert_close(network.fc(features), wanted)


def test_tau_norm_trains_nothing_and_says_its_losses(first, data, tmp_path):
    folder = run(first, data, tmp_path / "tau", "tau-norm", "decoupling.tau=1.0")
    after = state(folder)
    torch.testing.assert_close(after["fc.weight"].norm(dim=1), torch.ones(10))
    (row,) = read_rows(folder.metrics_file)
    images = (len(data.train), sum(data.counts[c] for c in data.groups["tail"]))
    mean = row["loss_head"] * (images[0] - images[1]) + row["loss_tail"] * images[1]
    assert row["train_loss"] == pytest.approx(mean / images[0])
    assert 0 <= row["acc_avg"] <= 1
    assert folder.run()["state"] == "finished"


def test_a_second_stage_that_is_cut_goes_on_without_the_first(first, data, tmp_path):
    whole = run(first, data, tmp_path / "whole", "crt", "training.epochs=2")
    taken = []

    def stop():
        taken.append(1)
        return len(taken) == 17

    with pytest.raises(Interrupted):
        run(first, data, tmp_path / "cut", "crt", "training.epochs=2", should_stop=stop)
    recipe, _ = second_stage(first.path, "crt", overrides=["training.epochs=2"])
    cut = train(recipe, data, RunFolder(tmp_path / "cut"), RunOptions(resume=True))
    assert all(torch.equal(value, state(cut)[key]) for key, value in state(whole).items())


def test_a_second_stage_on_image_files_goes_on_within_an_epoch(tmp_path):
    """Which crop of an image comes next depends on how often the epoch has drawn it before."""
    write_lists(tmp_path, [20, 8, 2], write=write_noise)
    files = FileOptions("train.txt", "test.txt", 16)
    data = load_data("list", root=tmp_path, thresholds=Thresholds(5), files=files)
    content = {
        "name": "small",
        "data": {"name": "list", "train_list": "train.txt", "test_list": "test.txt",
                 "image_size": 16, "tail_threshold": 5, "augment": True},
        "model": {"name": "resnet8"},
        "optimizer": {"batch_size": 4},
        "training": {"epochs": 1},
    }  # fmt: skip
    of_files = train(parse_recipe(content, origin="here"), data, RunFolder(tmp_path / "first"))
    whole = run(of_files, data, tmp_path / "whole", "crt", "training.epochs=2")
    taken = []

    def stop():
        taken.append(1)
        return len(taken) == 4

    with pytest.raises(Interrupted):
        run(of_files, data, tmp_path / "cut", "crt", "training.epochs=2", should_stop=stop)
    cut = run(of_files, data, tmp_path / "cut", "crt", "training.epochs=2", resume=True)
    assert all(torch.equal(value, state(cut)[key]) for key, value in state(whole).items())


def test_a_checkpoint_is_a_source_too(first):
    from_run = second_stage(first.path, "lws")
    from_file = second_stage(first.checkpoint("last"), "lws")
    assert from_run[0] == from_file[0]
    best, _ = second_stage(first.checkpoint("best"), "lws")
    assert best.decoupling.classifier == "lws"


def test_what_cannot_be_a_source(first, data, tmp_path):
    with pytest.raises(UsageError, match="choose from crt, lws, tau-norm"):
        second_stage(first.path, "drw")
    with pytest.raises(DataError, match="not a run folder"):
        second_stage(tmp_path, "crt")
    with pytest.raises(DataError, match=r"epoch-007\.pt"):
        second_stage(first.checkpoint("7"), "crt")
    second = run(first, data, tmp_path / "two", "tau-norm")
    with pytest.raises(UsageError, match="its classifier is tau-norm already"):
        second_stage(second.path, "crt")
    recipe, _ = second_stage(first.path, "crt")
    with pytest.raises(UsageError, match="needs the weights of the first"):
        train(recipe, data, RunFolder(tmp_path / "none"))
    cosine = packaged_recipe(
        "digits-lt", overrides=["training.epochs=1", "model.classifier=cosine"]
    )
    of_cosines = train(cosine, data, RunFolder(tmp_path / "cosine"))
    with pytest.raises(UsageError, match="not cosines"):
        second_stage(of_cosines.path, "crt")


@pytest.mark.parametrize("classifier", ["crt", "lws", "tau-norm"])
def test_weights_of_nothing_are_refused(tmp_path, classifier):
    """`{"model": {}}` trained a random backbone once, and ended with 0."""
    recipe = packaged_recipe("digits-lt", overrides=["training.epochs=1"])
    data = load_section(recipe.data)
    first = train(recipe, data, RunFolder(tmp_path / "first"))
    state = load_checkpoint(first.checkpoint("last"))["model"]
    for wrong, why in (
        ({}, "missing"),
        ({**state, "more": torch.zeros(1)}, "1 unknown"),
        ({k: v for k, v in state.items() if not k.startswith("conv1")}, "missing|unknown"),
        ({**state, next(iter(state)): torch.zeros(2)}, "in the file"),
        ({"model": 3}, "not a tensor"),
    ):
        torch.save({"model": wrong}, first.checkpoint("last"))
        with pytest.raises(DataError, match=why):
            _second(first, classifier, data, tmp_path / "second")
        assert not (tmp_path / "second").exists()


def _second(first, classifier, data, folder):
    recipe, start = second_stage(first.path, classifier)
    train(recipe, data, RunFolder(folder), RunOptions(start=start))


@pytest.mark.parametrize("kind", ["crt", "lws", "tau-norm"])
@pytest.mark.parametrize(("name", "before"), [("imbsam", "sgd"), ("imbsam", "sam")])
def test_the_second_stage_of_a_run_with_two_is_plain_sgd(data, tmp_path, kind, name, before):
    words = ("training.epochs=2", f"method.name={name}", f"method.first_stage={before}")
    recipe = packaged_recipe("digits-lt", overrides=words)
    folder = train(recipe, data, RunFolder(tmp_path / "run"))
    second, _ = second_stage(folder.path, kind)
    radii = second.method.radii(second.training.epochs)
    for epoch in range(second.training.epochs):
        assert not any(radii.at(epoch).values())


def test_a_second_stage_never_begins_with_random_weights(first, data, tmp_path):
    """Its recipe alone does not hold the weights of the first: a network that nobody trained."""
    done = run(first, data, tmp_path / "crt", "crt", "training.epochs=1")
    recipe, start = second_stage(first.path, "crt", overrides=["training.epochs=1"])
    before = state(done)
    with pytest.raises(UsageError, match="needs the weights of the first"):
        train(recipe, data, done, RunOptions(force=True))
    assert all(torch.equal(value, before[key]) for key, value in state(done).items())
    new = RunFolder(tmp_path / "new")
    new.path.mkdir()
    new.recipe_file.write_bytes(done.recipe_file.read_bytes())
    with pytest.raises(UsageError, match="needs the weights of the first"):
        train(recipe, data, new)
    done.checkpoint("last").unlink()
    with pytest.raises(UsageError, match="needs the weights of the first"):
        train(recipe, data, done, RunOptions(resume=True))
    other = {key: value + 1 for key, value in start.items()}
    with pytest.raises(UsageError, match="not those that the recipe names"):
        train(recipe, data, RunFolder(tmp_path / "other"), RunOptions(start=other))


def test_what_is_no_source_is_said_by_its_name(first, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="--from nowhere: no such run folder or checkpoint"):
        second_stage(Path("nowhere"), "crt")
    monkeypatch.chdir(first.checkpoints)
    recipe, _ = second_stage(Path("last.pt"), "crt")
    assert recipe.decoupling.classifier == "crt"
