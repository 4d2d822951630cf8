"""Curvature along other people's training: when it is measured, and where it is written.

docs/howto/own-loop.md, which is run, holds Lightning's and Hugging Face's own classes to the plain
loop; here stand what the frameworks say at which moment, and the trackers.
"""

import csv
import math
import sys
import types

import pytest
import torch
from torch import nn

from saddlescope import CurvatureLog, extreme_eigenvalues
from saddlescope.callbacks import SCALARS
from saddlescope.curvature import CurvatureMonitor, HessianOperator, TensorSamples
from saddlescope.errors import UsageError

CURVES = {f"curvature/{row}/{column}" for row in ("all", "1") for column in SCALARS}


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def monitor(**options):
    torch.manual_seed(1)
    samples = TensorSamples(torch.randn(20, 3).double(), torch.arange(20) % 2)
    return CurvatureMonitor(nn.CrossEntropyLoss(), samples, classes=[1], **options)


def test_it_measures_what_is_due_once_and_what_the_operator_says():
    curves = CurvatureLog(monitor(every=3, unit="step"))
    net = model().train()
    measured = {step: curves(net, step) for step in (0, 1, 2, 3, 3, 4)}
    assert [len(measured[step]) for step in (0, 1, 2, 4)] == [2, 0, 0, 0]
    frame = curves.monitor.frame()
    assert frame["step"].tolist() == [0, 0, 3, 3]
    assert net.training
    inputs, classes = curves.monitor.samples.values, curves.monitor.samples.targets
    batch = [(inputs[classes == 1], classes[classes == 1])]
    truth = extreme_eigenvalues(HessianOperator(net.eval(), nn.CrossEntropyLoss(), batch))
    of_class = frame[frame["kind"] == "class"]
    assert of_class["lambda_max"].tolist() == pytest.approx([truth.lambda_max.value] * 2, rel=1e-2)


def test_another_network_at_the_same_step_is_measured_too():
    curves = CurvatureLog(monitor(unit="step"))
    one, two = model(), model()
    assert [len(curves(net, 5)) for net in (one, two, two)] == [2, 2, 0]


def test_a_csv_goes_on_below_its_header(tmp_path):
    path = tmp_path / "new" / "curvature.csv"
    for epochs in ((0, 1), (2,)):  # the second time as a resumed run
        curves = CurvatureLog(monitor(), to=[path])
        rows = [row for epoch in epochs for row in curves(model(), epoch)]
    with open(path, newline="") as file:
        read = list(csv.DictReader(file))
    assert [(row["epoch"], row["kind"], row["name"]) for row in read] == [
        (epoch, *row) for epoch in "012" for row in (("group", "all"), ("class", "1"))
    ]
    assert read[-1] == {"epoch": "2"} | {k: str(v) for k, v in rows[-1].columns().items()}


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "step,name\n", "\x00\xff"])
def test_a_foreign_csv_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "theirs.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"theirs\.csv: holds something else"):
        CurvatureLog(monitor(), to=[path])
    assert path.read_text() == content


def test_trackers_get_every_finite_number_by_name(tmp_path):
    said = []
    tensorboard = types.SimpleNamespace(add_scalar=lambda *what: said.append(("tb", *what)))
    mlflow = types.SimpleNamespace(
        log_metrics=lambda found, step: said.extend(("ml", k, v, step) for k, v in found.items())
    )
    axes = []
    wandb = types.SimpleNamespace(
        define_metric=lambda name, step_metric: axes.append((name, step_metric)),
        log=lambda found: said.extend(
            ("wb", k, v, found["curvature/step"])
            for k, v in found.items() if k != "curvature/step"
        ),
    )  # fmt: skip
    own = []
    curves = CurvatureLog(
        monitor(every=2, unit="step"),
        to=[tensorboard, mlflow, wandb, lambda number, rows: own.append((number, rows))],
    )
    rows = curves(model(), 4)
    assert axes == [("curvature/*", "curvature/step")]
    assert own == [(4, rows)]
    expected = {
        (f"curvature/{row.name}/{column}", getattr(row, column), 4)
        for row in rows
        for column in SCALARS
        if math.isfinite(getattr(row, column))
    }
    assert {name for name, _, _ in expected} <= CURVES
    assert len(expected) > 15
    for tracker in ("tb", "ml", "wb"):
        assert {(name, *rest) for which, name, *rest in said if which == tracker} == expected
    before = len(said)
    assert curves(model(), 5) == []
    assert len(said) == before


def test_tensorboard_itself_reads_the_curves_back(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(str(tmp_path))
    curves = CurvatureLog(monitor(), to=[writer])
    rows = [curves(model(), epoch)[0] for epoch in range(2)]
    writer.close()
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    found = events.Scalars("curvature/all/lambda_min")
    assert [event.step for event in found] == [0, 1]
    assert [event.value for event in found] == pytest.approx([row.lambda_min for row in rows])


def test_a_place_that_cannot_be_written_to_is_refused():
    with pytest.raises(UsageError, match="to = int: expected a path, a SummaryWriter"):
        CurvatureLog(monitor(), to=[3])


class Base:
    """What a framework's own callback does at moments that are not ours: nothing."""

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_, **__: None


@pytest.fixture
def frameworks(monkeypatch):
    lightning = types.ModuleType("lightning.pytorch")
    lightning.Callback = Base
    transformers = types.ModuleType("transformers")
    transformers.TrainerCallback = Base
    monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    sys.modules["lightning"].__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "lightning.pytorch", lightning)
    monkeypatch.setitem(sys.modules, "transformers", transformers)


def lightning_training(callback, net, *, accumulate=1, rank=0):
    """Two epochs of four batches, as Lightning's loop tells of them."""
    trainer = types.SimpleNamespace(current_epoch=0, global_step=0, is_global_zero=rank == 0)
    callback.on_train_start(trainer, net)
    for epoch in range(2):
        trainer.current_epoch = epoch
        for batch in range(4):
            trainer.global_step += (batch + 1) % accumulate == 0
            callback.on_train_batch_end(trainer, net, None, None, batch)
        callback.on_train_epoch_end(trainer, net)


def transformers_training(callback, net, *, accumulate=1, rank=0):
    """The same as Hugging Face's Trainer tells it, which counts epochs as fractions."""
    state = types.SimpleNamespace(epoch=0.0, global_step=0, is_world_process_zero=rank == 0)
    callback.on_train_begin(None, state, None, model=net)
    steps = 4 // accumulate
    for step in range(1, 2 * steps + 1):
        state.global_step, state.epoch = step, step / steps
        callback.on_step_end(None, state, None, model=net)
        if step % steps == 0:
            callback.on_epoch_end(None, state, None, model=net)


@pytest.mark.parametrize(
    ("counted", "number"), [(1.0, 0), (0.5, 0), (1.9999999999, 1), (2.0000000001, 1), (2.25, 2)]
)
def test_an_epoch_that_max_steps_cuts_is_the_one_under_way(frameworks, counted, number):
    seen = []
    curves = CurvatureLog(monitor(), to=[lambda number, rows: seen.append(number)])
    state = types.SimpleNamespace(epoch=counted, global_step=7, is_world_process_zero=True)
    curves.transformers().on_epoch_end(None, state, None, model=model())
    assert seen == [number]


@pytest.mark.parametrize("training", [lightning_training, transformers_training])
@pytest.mark.parametrize(
    ("options", "accumulate", "numbers"),
    [
        ({"unit": "step", "every": 3}, 1, [0, 3, 6]),
        ({"unit": "step", "every": 2}, 2, [0, 2, 4]),
        ({"unit": "epoch"}, 1, [0, 1]),
        ({"unit": "epoch", "every": 2}, 1, [0]),
    ],
)
def test_a_framework_is_measured_at_the_numbers_that_are_due(
    frameworks, training, options, accumulate, numbers
):
    seen = []
    whole = nn.ModuleDict({"net": model(), "other": nn.Linear(2, 2)})
    curves = CurvatureLog(
        monitor(**options),
        to=[lambda number, rows: seen.append(number)],
        network=lambda module: module["net"],
    )
    name = training.__name__.removesuffix("_training")
    training(getattr(curves, name)(), whole, accumulate=accumulate)
    assert seen == numbers
    others = CurvatureLog(monitor(**options), to=[lambda number, rows: seen.append(number)])
    training(getattr(others, name)(), whole, rank=1)
    assert seen == numbers  # rank 0 alone
