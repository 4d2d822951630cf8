"""What a loop can do a recipe can say: clip, accumulate, fp16; and old run folders go on."""

import pytest
import torch

from saddlescope.errors import Interrupted
from saddlescope.runs import RunFolder, read_rows
from saddlescope.training import RunOptions, load_checkpoint, packaged_recipe, train
from saddlescope.training.checkpoints import save_checkpoint
from saddlescope.training.restore import load_section
from tests.training.test_trainer import SHORT, recipe, weights

METHODS = ("sgd", "sam", "sse-sam")


@pytest.fixture(scope="module")
def data():
    return load_section(recipe().data)


def run(folder, data, *overrides, **options):
    return train(packaged_recipe("digits-lt", overrides=[*SHORT, *overrides]), data,
                 RunFolder(folder), RunOptions(**options))  # fmt: skip


def stop_after(steps):
    taken = []

    def stop():
        taken.append(1)
        return len(taken) == steps

    return stop


@pytest.mark.parametrize("method", METHODS)
def test_accumulation_takes_the_steps_of_the_whole_batch(tmp_path, data, method):
    """With GroupNorm; what a few steps add to rounding is far below what a lost part would."""
    rows = []
    for count in (1, 3):
        overrides = (f"training.accumulate={count}", "model.norm=group", "training.epochs=1")
        folder = run(tmp_path / str(count), data, f"method.name={method}", *overrides)
        rows.append(read_rows(folder.metrics_file)[0])
    for key in ("train_loss", "loss_head", "loss_tail"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-3)


def test_the_clipped_gradient_is_what_moves_the_weights(tmp_path, data):
    overrides = ("training.epochs=1", "optimizer.weight_decay=0", "optimizer.momentum=0")
    loose = run(tmp_path / "loose", data, *overrides, "optimizer.clip=1e9")
    free = run(tmp_path / "free", data, *overrides)
    assert all(torch.equal(v, weights(free)[k]) for k, v in weights(loose).items())
    tight = run(tmp_path / "tight", data, *overrides, "optimizer.clip=1e-12")
    start = run(tmp_path / "start", data, *overrides, "optimizer.eta=1e-30")
    for (name, moved), still in zip(weights(tight).items(), weights(start).values(), strict=True):
        if "running" not in name:  # BatchNorm's statistics move without a gradient
            torch.testing.assert_close(moved, still, rtol=0, atol=1e-12, msg=name)


def test_fp16_resumes_to_the_same_bits_with_its_scale(tmp_path, data):
    overrides = ("training.precision=fp16", "training.epochs=1", "method.name=sam")
    whole = run(tmp_path / "whole", data, *overrides)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", data, *overrides, should_stop=stop_after(4))
    cut = run(tmp_path / "cut", data, *overrides, resume=True)
    one, two = (load_checkpoint(folder.checkpoint("last")) for folder in (whole, cut))
    assert all(torch.equal(v, two["model"][k]) for k, v in one["model"].items())
    assert one["steps"]["scaler"] == two["steps"]["scaler"]
    assert one["steps"]["scaler"]["scale"] > 0
    plain = run(tmp_path / "plain", data, "training.epochs=1", "method.name=sam")
    ends = [read_rows(folder.metrics_file)[-1]["train_loss"] for folder in (whole, plain)]
    assert ends[0] == pytest.approx(ends[1], rel=0.05)


def test_a_checkpoint_of_the_older_format_goes_on_to_the_same_bits(tmp_path, data):
    whole = run(tmp_path / "whole", data, "training.epochs=2")
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", data, "training.epochs=2", should_stop=stop_after(12))
    path = RunFolder(tmp_path / "cut").checkpoint("last")
    content = load_checkpoint(path)
    groups = content["optimizer"]["param_groups"]
    radii = next(group.pop("radii") for group in groups)
    content["optimizer"] = {"base": content["optimizer"], "radii": radii}
    del content["steps"]["scaler"]
    save_checkpoint(path, content)
    cut = run(tmp_path / "cut", data, "training.epochs=2", resume=True)
    assert all(torch.equal(v, weights(cut)[k]) for k, v in weights(whole).items())
