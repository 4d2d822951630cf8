"""Escape from a checkpoint: exact on a quadratic, sound bookkeeping on a network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.curvature import TensorSamples
from saddlescope.errors import UsageError
from saddlescope.experiments import ESCAPE_COLUMNS, ESCAPE_METHODS, Steps, measure_escape
from saddlescope.measurement import Target
from saddlescope.measurement.directions import UpdateRule
from saddlescope.measurement.whole_loss import stratified
from saddlescope.theory import Part, walk

EIGENVALUES = torch.tensor([-2.0, 0.5, 1.0, 3.0], dtype=torch.float64)


class Quadratic(nn.Module):
    """Each sample's loss is its slope times w plus ½⟨w, Λw⟩; its "logits" are that number."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, slopes):
        return slopes @ self.w + 0.5 * EIGENVALUES @ self.w.square()


class Mean(nn.Module):
    reduction = "mean"

    def forward(self, values, targets):
        return values.mean()


def quadratic():
    slopes = torch.tensor(np.random.default_rng(0).standard_normal((10, 4)))
    classes = torch.tensor([0] * 8 + [1] * 2)
    samples = TensorSamples(slopes, classes, {"head": [0], "tail": [1]})
    identity = {"run": "quadratic", "checkpoint": "last"}
    target = Target(Quadratic().eval(), Mean(), samples, identity, UpdateRule(0.3, 0.3, 0.5))
    return target, slopes.numpy()


def test_on_a_quadratic_the_steps_are_those_of_the_theory():
    target, slopes = quadratic()
    found = measure_escape(target, Steps(5, eta=0.1))
    assert found.ends.lambda_min.value == pytest.approx(-2.0)
    assert not target.model.w.any()  # a copy is moved
    shares = [(slopes[:8].sum(0) / 10, 0.8), (slopes[8:].sum(0) / 10, 0.2)]
    radii = {"sgd": (0.0,), "sam": (0.3,), "imbsam": (0.0, 0.5), "sam-ext": (0.3, 0.5)}
    for method, of_groups in radii.items():
        split = [(slopes.mean(0), 1.0)] if len(of_groups) == 1 else shares
        parts = [
            Part(g[None], share * EIGENVALUES.numpy()[None], np.array([rho]))
            for (g, share), rho in zip(split, of_groups, strict=True)
        ]
        wanted = [float(u[0, 0]) for u, _ in walk(parts, np.array([0.1]), 5)]
        along = [row["along"] for row in found.rows if row["method"] == method]
        sign = -np.sign(slopes.mean(0)[0])  # SGD's first step goes along v_min
        assert along == pytest.approx([sign * value for value in wanted], rel=1e-9, abs=1e-12)
    of_sgd = [row for row in found.rows if row["method"] == "sgd"]
    assert of_sgd[1]["along"] > 0
    assert all(row["lambda_min"] in (None, pytest.approx(-2.0)) for row in found.rows)
    assert set(of_sgd[0]) == set(ESCAPE_COLUMNS)
    assert of_sgd[0]["loss_head"] == 0.0


def test_groups_are_needed_where_a_method_has_them():
    target, _ = quadratic()
    bare = TensorSamples(target.samples.values, target.samples.targets, {})
    without = Target(target.model, target.criterion, bare, target.identity)
    assert len(measure_escape(without, Steps(1, eta=0.1, methods=("sgd", "sam"))).rows) == 4
    with pytest.raises(UsageError, match="know no head and tail"):
        measure_escape(without, Steps(1, eta=0.1))
    with pytest.raises(UsageError, match="no method 'adam'"):
        measure_escape(target, Steps(1, eta=0.1, methods=("adam",)))
    with pytest.raises(UsageError, match="η > 0"):
        measure_escape(target, Steps(1, eta=0.0))
    with pytest.raises(UsageError, match="samples = 0"):
        measure_escape(target, Steps(1, eta=0.1, samples=0))


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_follows_a_run(tmp_path):
    run = tmp_path / "run"
    assert (
        command("train", "package:digits-lt", "--set", "training.epochs=1", "-o", run).exit_code
        == 0
    )
    file = tmp_path / "escape.csv"
    options = ("--steps", 1, "--methods", "sgd,imbsam", "--samples", 40, "--threads", 1, "-o", file)
    done = command("theory", "escape", run, *options)
    assert done.exit_code == 0, done.output
    header, *rows = done.stdout.splitlines()
    assert header == ",".join(ESCAPE_COLUMNS)
    assert [row.split(",")[3:5] for row in rows] == [
        [method, str(step)] for method in ("sgd", "imbsam") for step in (0, 1)
    ]
    assert file.read_text() == done.stdout
    assert "λ_min" in done.stderr
    assert len(ESCAPE_METHODS) == 5
    done = command("theory", "escape", tmp_path, "--threads", 1)
    assert done.exit_code == 4


def test_a_few_samples_stand_for_all():
    """The same few in every step: the run on them alone is the run on a set of nothing else."""
    target, slopes = quadratic()
    chosen = stratified(target.samples.targets, 5, seed=3)
    assert len(chosen) == 5
    assert target.samples.targets[chosen].tolist() == [0, 0, 0, 0, 1]
    alone = TensorSamples(
        torch.tensor(slopes)[chosen],
        target.samples.targets[chosen],
        {"head": [0], "tail": [1]},
    )
    one = measure_escape(target, Steps(3, eta=0.1, samples=5, seed=3))
    two = measure_escape(replace(target, samples=alone), Steps(3, eta=0.1, seed=3))
    assert one.rows == two.rows
    whole = measure_escape(target, Steps(3, eta=0.1, samples=100, seed=3))
    assert whole.rows == measure_escape(target, Steps(3, eta=0.1, seed=3)).rows
    assert whole.rows != one.rows
