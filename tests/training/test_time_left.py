"""The time that a run says is left: compiling is not the pace."""

import math
import types

import pytest

import saddlescope.stages as stages
from saddlescope.runs import RunFolder
from saddlescope.training import packaged_recipe, train
from saddlescope.training.restore import load_section
from saddlescope.training.steps import Steps


@pytest.fixture
def drawn(monkeypatch):
    found = []
    picture = types.SimpleNamespace(
        patience=0.0, every=0.0, draw=lambda *what: found.append(what), close=lambda: None
    )
    monkeypatch.setattr(stages, "_picture", lambda _: picture)
    return found


def test_it_counts_from_the_second_step_of_each_kind(tmp_path, monkeypatch, drawn):
    recipe = packaged_recipe(
        "digits-lt",
        overrides=["training.epochs=2", "optimizer.batch_size=64", "method.name=sse-sam",
                   "method.gamma=0.5"],
    )  # fmt: skip
    data = load_section(recipe.data)
    clock, compiled = types.SimpleNamespace(now=0.0), set()
    monkeypatch.setattr(stages.time, "perf_counter", lambda: clock.now)

    def take(self, indices, images, **_):
        kind = (self.radii.stage(clock.epoch), len(indices))
        clock.now += len(indices) / 32.0 if kind in compiled else 5000.0
        compiled.add(kind)

    begin = Steps.begin

    def begins(self, epoch):
        clock.epoch = epoch
        begin(self, epoch)

    monkeypatch.setattr(Steps, "begin", begins)
    monkeypatch.setattr(Steps, "take", take)
    monkeypatch.setattr("saddlescope.training.trainer.finish_epoch", finish)
    with stages.progress():
        train(recipe, data, RunFolder(tmp_path / "run"))

    steps, total = math.ceil(len(data.train) / 64), 2 * len(data.train)
    assert len(drawn) == 2 * steps
    for number, (label, share, words) in enumerate(drawn):
        epoch, step = divmod(number, steps)
        assert label == "run"
        assert f"epoch {epoch + 1}/2  loss " in words
        left = total - epoch * len(data.train) - min(64 * (step + 1), len(data.train))
        assert share == pytest.approx(1.0 - left / total)
        if step == 0:  # of this epoch no step of a known kind yet
            assert "left" not in words
            assert "images/s" not in words
        else:
            assert "32 images/s" in words
            assert words.startswith(f"{stages.span(left / 32.0)} left  ")


def finish(run):
    """The end of an epoch without what measures and writes."""
    run.state.begin_next_epoch()
    return {}
