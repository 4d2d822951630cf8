"""Several ranks share each batch: the same steps as one process takes."""

import pytest
import torch

from saddlescope.curvature import Ranks
from saddlescope.errors import ExitCode, UsageError
from saddlescope.runs import METHODS, RunFolder, read_rows
from saddlescope.sharpness import SharpnessAware, StepOptions
from saddlescope.training import RunOptions, load_checkpoint, packaged_recipe, train
from saddlescope.training.network import average_statistics, training_network
from saddlescope.training.restore import load_section
from saddlescope.training.steps import Steps
from tests.curvature.processes import on_ranks, start_command

STEPS = 20


def recipe(method, *overrides):
    return packaged_recipe(
        "digits-lt",
        overrides=[
            f"method.name={method}", "method.gamma=0.5", "training.epochs=2", "data.augment=true",
            *overrides,
        ],
    )  # fmt: skip


def losses_of_steps(ranks, method, norm, last_batch=None):
    """The loss of each of 20 batches, half in each of SSE-SAM's stages, and the last weights.

    In float64, so that only what is wrong can differ; BatchNorm is frozen.
    """
    torch.set_num_threads(1)
    asked = recipe(method, f"model.norm={norm}")
    data = load_section(asked.data)
    model = training_network(
        asked, num_classes=10, in_channels=1, device=torch.device("cpu"), ranks=ranks
    ).double()
    model.train(norm == "group")
    radii = asked.method.radii(2)
    optimizer = SharpnessAware(
        model.parameters(), torch.optim.SGD, radii=radii.at(0), lr=0.05, momentum=0.9,
        step=StepOptions(total=None if ranks.size == 1 else ranks.total),
    )  # fmt: skip
    steps = Steps(asked, data, model, optimizer, radii, ranks=ranks)
    found = []
    for epoch in range(2):
        steps.begin(epoch)
        batches = list(steps.order(epoch).split(32)[: STEPS // 2])
        if last_batch is not None:
            batches[-1] = batches[-1][:last_batch]
        before = 0.0
        for indices, images in zip(batches, steps.images(batches), strict=True):
            steps.take(indices, images.double())
            now = float(ranks.total(steps.sums.clone()).sum())
            found.append((now - before) / len(indices))
            before = now
        assert int(steps.counts.sum()) == sum(map(len, batches))
    return found, next(model.parameters()).flatten().tolist()


def losses_of_methods(ranks, norm):
    return [losses_of_steps(ranks, method, norm) for method in METHODS]


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_two_ranks_take_the_steps_of_one(norm):
    alone = losses_of_methods(Ranks(), norm)
    for losses, _ in alone:
        assert len(losses) == STEPS
        assert max(losses) - min(losses) > 0.1  # it does train
    for shared in on_ranks(2, losses_of_methods, norm):
        for method, (losses, weights), (there, weights_there) in zip(
            METHODS, alone, shared, strict=True
        ):
            assert there == pytest.approx(losses, rel=1e-9), method
            assert weights_there == pytest.approx(weights, rel=1e-7, abs=1e-9), method


@pytest.mark.slow
def test_a_batch_smaller_than_the_ranks_is_taken_by_all_of_them():
    losses, weights = losses_of_steps(Ranks(), "sam-ext", "group", 2)
    for shared_losses, shared_weights in on_ranks(3, losses_of_steps, "sam-ext", "group", 2):
        assert shared_losses == pytest.approx(losses, rel=1e-9)
        assert shared_weights == pytest.approx(weights, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("method", "messages"), [("sgd", 1), ("sam", 2), ("sam-ext", 2)])
def test_gradients_travel_once_for_all_ascents_and_once_for_the_update(method, messages):
    asked = recipe(method)
    data = load_section(asked.data)
    model = training_network(asked, num_classes=10, in_channels=1, device=torch.device("cpu"))
    radii, sent = asked.method.radii(2), []
    optimizer = SharpnessAware(
        model.parameters(),
        torch.optim.SGD,
        radii=radii.at(0),
        step=StepOptions(total=sent.append),
        lr=0.1,
    )
    steps = Steps(asked, data, model, optimizer, radii)
    batches = [torch.arange(0, 438, 10)]
    steps.take(batches[0], next(steps.images(batches)))
    size = sum(p.numel() for p in model.parameters())
    groups = 2 if method == "sam-ext" else 1
    flags = len(list(model.parameters()))  # which of them have a gradient on this rank
    assert [flat.numel() for flat in sent] == [groups * size, size + flags][-messages:]


def _statistics(ranks):
    model = torch.nn.BatchNorm1d(3)
    model.running_mean.fill_(ranks.rank)
    average_statistics(model, ranks)
    return model.running_mean.tolist(), int(model.num_batches_tracked)


def test_ranks_average_their_statistics():
    assert on_ranks(2, _statistics) == [([0.5] * 3, 0)] * 2


def test_norms_are_refused_of_shared_batches(tmp_path):
    asked = recipe("sgd", "training.norms_every=1")
    alone = Ranks()
    alone.size = 2
    with pytest.raises(UsageError, match="norms_every looks at whole batches"):
        train(asked, load_section(asked.data), RunFolder(tmp_path / "run"), RunOptions(ranks=alone))


TRAIN = (
    "train", "package:digits-lt", "--set", "training.epochs=2", "--set", "model.norm=group",
    "--set", "method.name=sse-sam", "--set", "method.gamma=0.5", "--threads", "1",
)  # fmt: skip


@pytest.mark.slow
def test_the_command_on_two_ranks_leaves_one_run(tmp_path):
    arguments = (*TRAIN, "--set", "training.losses_every=1", "--monitor", "tail", "-o", "two")
    job = start_command(tmp_path, 2, *arguments)
    assert job.codes() == [0, 0], job.said()
    assert job.said().count("2 ranks share each batch") == 1
    assert job.stream("stdout", 0) == "two\n"
    assert job.stream("stdout", 1) == ""
    two = RunFolder(tmp_path / "two")
    assert two.run()["state"] == "finished"

    asked = packaged_recipe("digits-lt", overrides=[*TRAIN[3:9:2], "training.losses_every=1"])
    one = train(asked, load_section(asked.data), RunFolder(tmp_path / "one"))
    for left, right in ((one.metrics_file, two.metrics_file), (one.losses_file, two.losses_file)):
        for here, there in zip(read_rows(left), read_rows(right), strict=True):
            for column in ("train_loss", "loss", "loss_head", "loss_tail", "loss_tail_sum"):
                if column in here:
                    assert here[column] == pytest.approx(there[column], rel=5e-2)
    assert [row["epoch"] for row in read_rows(two.monitor_file)] == [0, 1]


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job_and_the_run_goes_on(tmp_path):
    job = start_command(tmp_path, 2, *TRAIN, "--set", "training.epochs=4000", "-o", "run")
    folder = RunFolder(tmp_path / "run")
    while not folder.checkpoint("last").is_file():
        assert job.processes[0].is_alive(), job.said()
        job.processes[0].join(0.05)
    job.processes[1].kill()
    codes = job.codes()
    assert codes[0] == ExitCode.FAILED, job.said()
    assert "rank 1" in job.stream("stderr", 0)
    assert len(job.stream("stderr", 0).strip().splitlines()[-1]) < 300
    content = load_checkpoint(folder.checkpoint("last"))
    assert content["epoch"] >= 1


@pytest.mark.slow
def test_a_signal_stops_all_ranks_at_one_step(tmp_path):
    job = start_command(tmp_path, 2, *TRAIN, "--set", "training.epochs=4000", "-o", "run")
    folder = RunFolder(tmp_path / "run")
    while not folder.checkpoint("last").is_file():
        assert job.processes[0].is_alive(), job.said()
        job.processes[0].join(0.05)
    job.processes[1].terminate()  # one of them is told, all stop
    assert job.codes() == [ExitCode.INTERRUPTED] * 2, job.said()
    assert folder.run()["state"] == "interrupted"
    assert job.said().count("saved, go on with --resume") == 1


def test_a_sweep_is_refused_of_ranks(tmp_path):
    (tmp_path / "s.toml").write_text(
        'extends = "package:digits-lt"\nname = "s"\n[[sweep]]\n"training.seed" = [0, 1]\n'
    )
    job = start_command(tmp_path, 2, "train", "s.toml", "-o", "runs")
    assert job.codes() == [ExitCode.USAGE] * 2
    assert job.said().count("choose a run with --only") == 1
