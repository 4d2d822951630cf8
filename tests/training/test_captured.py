"""A captured step is the eager one, to the bit: here with "call again" in the replay's place."""

import functools
import logging

import pytest
import torch

from benchmarks.calls import DeviceCalls
from saddlescope.errors import Interrupted, UsageError
from saddlescope.runs import METHODS, RunFolder, read_rows
from saddlescope.sharpness import SharpnessAware, StepOptions
from saddlescope.training import (
    RunOptions,
    load_checkpoint,
    packaged_recipe,
    train,
    train_together,
    training,
)
from saddlescope.training.captured import CapturedSteps, base_options, set_step_size
from saddlescope.training.network import recipe_network
from saddlescope.training.restore import load_section
from saddlescope.training.steps import Steps

loaded = functools.cache(lambda: load_section(recipe("sgd").data))
SIZE = 32


def recipe(method, *overrides):
    return packaged_recipe(
        "digits-lt",
        overrides=[
            f"method.name={method}", "method.gamma=0.5", "training.epochs=2", "data.augment=true",
            "data.imbalance_factor=100",
            f"optimizer.batch_size={SIZE}", "training.captured=true", *overrides,
        ],
    )  # fmt: skip


def made(kind, asked, device="cpu", **options):
    data = loaded().to(device)
    model = recipe_network(asked, num_classes=10, in_channels=1).to(device).train()
    radii = asked.method.radii(2)
    optimizer = SharpnessAware(
        model.parameters(),
        torch.optim.SGD,
        radii=radii.at(0),
        step=StepOptions(
            model=model, bn_statistics=asked.method.bn_statistics, clip=asked.optimizer.clip
        ),
        momentum=0.9,
        weight_decay=1e-3,
        **base_options(asked, torch.device(device)),
    )
    return kind(asked, data, model, optimizer, radii, **options)


def warmed_up(function):
    """What capturing does: the function runs a few times before it counts."""
    for _ in range(3):
        function()
    return [], function


def run(steps, *, epochs=2, batches=3):
    """Some full batches and a smaller one in each epoch."""
    for epoch in range(epochs):
        steps.begin(epoch)
        set_step_size(steps.optimizer, 0.05 / (epoch + 1))
        order = steps.order(epoch)[: SIZE * batches + 5]
        parts = order.split(SIZE)
        for part, images in zip(parts, steps.images(parts), strict=True):
            steps.take(part, images)
    return steps


def assert_equal(one, two):
    left, right = one.model.state_dict(), two.model.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert torch.equal(one.sums, two.sums)
    assert torch.equal(one.counts, two.counts)


CASES = [
    *((method, ()) for method in METHODS),
    ("imbsam", ("method.group_reduction=group", "method.bn_statistics=clean")),
    ("sam-ext", ("method.group_reduction=batch-tail-x2", "loss.name=ldam")),
    ("sam", ("loss.name=ce", "loss.reweight_from=0.5", "training.channels_last=true")),
    ("sse-sam", ("training.precision=bf16", "optimizer.nesterov=true")),
    ("sgd", ("data.augment=false",)),
    ("sam-ext", ("optimizer.clip=0.5",)),
]


@pytest.mark.parametrize(("method", "overrides"), CASES)
def test_replayed_steps_are_the_eager_ones(method, overrides):
    asked = recipe(method, *overrides)
    eager = run(made(Steps, asked))
    captured = run(made(CapturedSteps, asked, record=warmed_up))
    assert_equal(eager, captured)
    assert len(captured._recordings) >= 1


def test_masks_and_tables_matter():
    """The comparison above can fail: another row's composition gives another result."""
    asked = recipe("imbsam")
    eager, captured = made(Steps, asked), made(CapturedSteps, asked)
    tail = captured._tail_there
    captured._tail_there = tail.roll(1)
    run(eager), run(captured)
    assert not torch.equal(eager.sums, captured.sums)


def test_one_recording_for_each_composition_and_stage():
    """No group is empty inside a recording, and other radii make others."""
    asked, size = recipe("sse-sam", "optimizer.batch_size=8"), 8
    steps = made(CapturedSteps, asked)
    head, tail = (mask.nonzero().flatten() for mask in (~steps._is_tail, steps._is_tail))
    parts = [head[:size], tail[:size], torch.cat((head[:4], tail[:4])), head[size : 2 * size]]
    for epoch in range(2):
        steps.begin(epoch)
        for part, images in zip(parts, steps.images(parts), strict=True):
            steps.take(part, images)
    keys = sorted((key[0], dict(key[1])["head"] > 0) for key in steps._recordings)
    compositions = [("head",), ("head", "tail"), ("tail",)]
    assert keys == sorted((groups, on) for groups in compositions for on in (False, True))


@pytest.mark.parametrize(
    ("method", "overrides"), [("sgd", ()), ("imbsam", ()), CASES[6], CASES[-1]]
)
def test_nothing_in_a_recorded_step_waits(monkeypatch, method, overrides):
    """A wait would make its capture fail; an epoch waits for nothing either, but its beginning."""
    asked = recipe(method, *overrides)
    here = made(CapturedSteps, asked)
    # There is no fused SGD without a device; of the others this one waits least.
    monkeypatch.setitem(globals(), "base_options", lambda *_: {"lr": 0.05, "foreach": True})
    monkeypatch.setattr(
        torch.Tensor, "cpu",
        lambda tensor: here.data.train.labels if tensor.device.type == "meta" else tensor,
    )  # fmt: skip
    there = made(CapturedSteps, asked, "meta", record=warmed_up)
    monkeypatch.undo()
    there.begin(0)
    parts = there.order(0)[: 2 * SIZE].split(SIZE)
    images = there.images(parts)
    with DeviceCalls():
        there.take(parts[0], next(images))
    with DeviceCalls() as calls:
        there.take(parts[1], next(images))
    assert calls.waits == []
    assert calls.launches > 50


def test_steps_that_cannot_be_recorded_are_taken_all_the_same(caplog):
    def refuse(function):
        function()  # a warm-up, and then the capture fails
        raise RuntimeError("operation not permitted when stream is capturing")

    asked = recipe("sam-ext")
    eager = run(made(Steps, asked))
    with caplog.at_level(logging.WARNING, "saddlescope.training"):
        captured = run(made(CapturedSteps, asked, record=refuse))
    assert_equal(eager, captured)
    assert "launched kernel by kernel" in caplog.text
    assert "stream is capturing" in caplog.text


def test_a_restored_optimiser_is_recorded_anew():
    """Its momentum and its step size have other addresses."""
    asked = recipe("sam")
    one, two = made(CapturedSteps, asked), made(CapturedSteps, asked)
    run(one, epochs=1), run(two, epochs=1)
    before = dict(two._recordings)
    two.optimizer.load_state_dict(two.optimizer.state_dict())
    for steps in (one, two):
        steps.begin(1)
        parts = steps.order(1)[: 3 * SIZE].split(SIZE)
        for part, images in zip(parts, steps.images(parts), strict=True):
            steps.take(part, images)
    assert_equal(one, two)
    assert before.keys() == two._recordings.keys()
    assert all(two._recordings[key] is not before[key] for key in before)


def weights(folder):
    return load_checkpoint(folder.checkpoint("last"))["model"]


def assert_same_weights(one, two):
    left, right = weights(one), weights(two)
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two uninterrupted captured runs."""
    root = tmp_path_factory.mktemp("captured")
    return {
        method: train(recipe(method), loaded(), RunFolder(root / method))
        for method in ("sse-sam", "imbsam")
    }


def test_captured_steps_are_those_of_an_eager_run_to_rounding():
    """SGD is fused here and not there, and a step size has float32's digits."""
    eager = run(made(Steps, recipe("sse-sam", "training.captured=false")), batches=1)
    captured = run(made(CapturedSteps, recipe("sse-sam")), batches=1)
    left, right = eager.model.state_dict(), captured.model.state_dict()
    for key in left:
        torch.testing.assert_close(left[key], right[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("after", [3, 14])
def test_a_captured_run_goes_on_from_the_very_step(tmp_path, whole, after):
    """The epoch's images are drawn at once: what is saved is where the steps have got to."""
    folder, taken = RunFolder(tmp_path / "run"), []

    def stop():
        taken.append(1)
        return len(taken) == after

    with pytest.raises(Interrupted):
        train(recipe("sse-sam"), loaded(), folder, RunOptions(should_stop=stop))
    train(recipe("sse-sam"), loaded(), folder, RunOptions(resume=True))
    assert_same_weights(folder, whole["sse-sam"])
    assert [row["train_loss"] for row in read_rows(folder.metrics_file)] == [
        row["train_loss"] for row in read_rows(whole["sse-sam"].metrics_file)
    ]


def test_norms_are_those_of_an_eager_run_and_change_nothing(tmp_path, whole):
    logged = recipe("sse-sam", "training.norms_every=15")
    captured = train(logged, loaded(), RunFolder(tmp_path / "captured"))
    assert_same_weights(captured, whole["sse-sam"])
    assert [(row["epoch"], row["step"]) for row in read_rows(captured.norms_file)] == [
        (0, 0),
        (1, 5),
    ]


def test_runs_that_train_together_end_as_they_do_alone(tmp_path, whole):
    folders = {method: RunFolder(tmp_path / method) for method in whole}
    train_together(
        [
            (recipe(method), training(recipe(method), loaded(), folder))
            for method, folder in folders.items()
        ],
        device="cpu",
    )
    for method, folder in folders.items():
        assert_same_weights(folder, whole[method])
        assert folder.run()["state"] == "finished"


def test_runs_that_train_together_are_all_saved_when_they_are_stopped(tmp_path, whole):
    folders, taken = {method: RunFolder(tmp_path / method) for method in whole}, []

    def stop():
        taken.append(1)
        return len(taken) > 12

    def runs(**options):
        return [
            (recipe(method), training(recipe(method), loaded(), folder, RunOptions(**options)))
            for method, folder in folders.items()
        ]

    with pytest.raises(Interrupted):
        train_together(runs(should_stop=stop), device="cpu")
    assert {folder.run()["state"] for folder in folders.values()} == {"interrupted"}
    train_together(runs(resume=True), device="cpu")
    for method, folder in folders.items():
        assert_same_weights(folder, whole[method])


def test_what_cannot_train_together_or_be_captured_is_refused(tmp_path):
    asked = [recipe("sgd"), recipe("sam", "training.precision=tf32")]
    with pytest.raises(UsageError, match=r"one training\.precision"):
        train_together([(one, iter(())) for one in asked], device="cpu")
    for other in ("compile=true", "precision=fp16", "accumulate=2"):
        asked = recipe("sgd", f"training.{other}")
        with pytest.raises(
            UsageError, match=rf"training\.captured: training\.{other.split('=')[0]}"
        ):
            train(asked, loaded(), RunFolder(tmp_path / "refused"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("method", "overrides"), CASES)
def test_captured_steps_on_cuda(method, overrides):
    """The same kernels on the same numbers; cuDNN may choose others while it captures."""
    asked = recipe(method, *overrides)
    eager, captured = run(made(Steps, asked, "cuda")), run(made(CapturedSteps, asked, "cuda"))
    assert all(captured._recordings.values())
    left, right = eager.model.state_dict(), captured.model.state_dict()
    for key in left:
        torch.testing.assert_close(left[key].float(), right[key].float(), rtol=2e-2, atol=2e-3)
    torch.testing.assert_close(eager.sums, captured.sums, rtol=1e-2, atol=1e-2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_runs_together_on_cuda_are_those_alone(tmp_path):
    asked = [recipe(method, "training.deterministic=true") for method in ("sgd", "imbsam")]
    together = [RunFolder(tmp_path / f"together-{one.method.name}") for one in asked]
    train_together(
        [
            (one, training(one, loaded(), folder, RunOptions(device="cuda")))
            for one, folder in zip(asked, together, strict=True)
        ],
        device="cuda",
    )
    for one, folder in zip(asked, together, strict=True):
        alone = train(
            one, loaded(), RunFolder(tmp_path / one.method.name), RunOptions(device="cuda")
        )
        left, right = weights(alone), weights(folder)
        for key in left:
            torch.testing.assert_close(left[key], right[key], rtol=1e-3, atol=1e-4)
