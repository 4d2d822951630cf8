"""Remark 2, Eq. 2, Theorem 6's ball and the gradients of head and tail, against dense answers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.curvature import TensorSamples
from saddlescope.errors import DataError, UsageError
from saddlescope.experiments import (
    GRADIENT_COLUMNS,
    MINIBATCH_COLUMNS,
    SHARPEST_COLUMNS,
    group_gradients,
    inner_maximum,
    largest_curvature,
    logged_gradients,
    negative_curvature_moments,
)
from saddlescope.measurement import Target, UpdateRule
from saddlescope.runs import RunFolder
from tests.measurement.small import Dense, target

RULE = UpdateRule(0.3, 0.3, 0.5)


def weights(of):
    return torch.cat([p.detach().reshape(-1) for p in of.model.parameters()])


def test_moments_over_whole_batches_are_known():
    """With every sample in every batch there is no spread, and the moments are those of ∇L."""
    of = target(rule=RULE)
    before = weights(of)
    plain, sharp = negative_curvature_moments(of, batches=3, batch_size=41)
    assert (weights(of) == before).all()
    dense = Dense(of)
    vectors = torch.linalg.eigh(dense.hessian)
    v_min, gradient = vectors.eigenvectors[:, 0], dense.gradient()
    assert plain["moment"] == pytest.approx(float(v_min @ gradient) ** 2, rel=0.05)
    assert plain["squared_norm"] == pytest.approx(float(gradient.square().sum()), rel=1e-9)
    at = dense.gradient(dense.w + 0.3 * gradient / gradient.norm())
    assert sharp["moment"] == pytest.approx(float(v_min @ at) ** 2, rel=0.05)
    assert sharp["squared_norm"] == pytest.approx(float(at.square().sum()), rel=1e-9)
    assert plain["moment_error"] < 1e-12
    assert plain["lambda_min"] == pytest.approx(float(vectors.eigenvalues[0]), rel=1e-2)
    assert tuple(plain) == MINIBATCH_COLUMNS
    assert (plain["rho"], sharp["rho"]) == (0.0, 0.3)
    assert plain["isotropic_share"] == 1 / 43


def test_moments_of_small_batches_are_those_of_their_gradients():
    """Batches of one: the mean over many draws is near that over the samples."""
    of = target(rule=RULE)
    plain, _ = negative_curvature_moments(of, batches=400, batch_size=1)
    dense = Dense(of)
    v_min = torch.linalg.eigh(dense.hessian).eigenvectors[:, 0]
    squares = []
    for index in range(41):
        part = TensorSamples(
            of.samples.values[index : index + 1], of.samples.targets[index : index + 1], {}
        )
        one = Dense(Target(of.model, of.criterion, part, of.identity))
        squares.append(float(one.gradient() @ v_min) ** 2)
    wanted = sum(squares) / 41
    assert abs(plain["moment"] - wanted) < 4 * plain["moment_error"]
    assert plain["moment_error"] < 0.2 * wanted
    for options in ({"batches": 1}, {"batch_size": 42}, {"batch_size": 0}):
        with pytest.raises(UsageError, match="expected at least 2 batches"):
            negative_curvature_moments(of, **options)


def test_the_largest_loss_in_a_small_ball():
    """For small ρ it is L + ρ‖g‖ + ½ρ²⟨g, Hg⟩/‖g‖² to first order in the direction."""
    of = target(rule=RULE)
    before = weights(of)
    rows = inner_maximum(of, rho=1e-3, steps=30, starts=2)
    assert (weights(of) == before).all()
    assert [row["name"] for row in rows] == ["all", "head", "tail"]
    dense = Dense(of)
    gradient, whole = dense.gradient(), rows[0]
    unit = gradient / gradient.norm()
    curved = 1e-3 * float(gradient.norm()) + 0.5e-6 * float(unit @ dense.hessian @ unit)
    assert whole["gain_first_order"] == pytest.approx(curved, rel=1e-6)
    assert whole["gain_linear"] == pytest.approx(1e-3 * float(gradient.norm()))
    assert 1 - 1e-3 < whole["ratio"] <= 1
    assert whole["cosine"] > 0.999
    assert whole["loss"] == pytest.approx(float(dense.loss(dense.w)))
    assert tuple(whole) == SHARPEST_COLUMNS


def test_in_a_large_ball_ascent_finds_more_and_stays_inside():
    of = target(rule=RULE)
    rows = inner_maximum(of, steps=60, starts=3)
    assert [row["rho"] for row in rows] == [0.3, 0.3, 0.5]
    dense = Dense(of)
    generator = torch.Generator().manual_seed(5)
    for row in rows[:1]:
        tried = []
        for _ in range(300):
            step = torch.randn(43, generator=generator, dtype=torch.float64)
            tried.append(float(dense.loss(dense.w + row["rho"] * step / step.norm())))
        assert row["loss"] + row["gain_ascent"] >= max(tried)
    for row in rows:
        assert row["gain_ascent"] >= row["gain_first_order"] > 0
        assert row["length"] <= 1 + 1e-6
    with pytest.raises(UsageError, match="rho > 0"):
        inner_maximum(of, rho=-1.0)


def test_no_radius_no_row():
    of = target(rule=UpdateRule(0.3, 0.0, 0.5))
    assert [row["name"] for row in inner_maximum(of, steps=2)] == ["all", "tail"]
    bare = TensorSamples(of.samples.values, of.samples.targets, {})
    without = Target(of.model, of.criterion, bare, of.identity, RULE)
    assert [row["name"] for row in inner_maximum(without, steps=2)] == ["all"]


def test_curvatures_in_a_ball():
    of = target(rule=RULE)
    before = weights(of)
    found = largest_curvature(of, rho=0.3)
    assert (weights(of) == before).all()
    dense = Dense(of)
    values, vectors = torch.linalg.eigh(dense.hessian)
    assert float(values[-1]) <= found["w"] <= float(values[-1]) * 1.1

    def at(step):
        moved = Dense(of)
        moved.w = dense.w + step
        return float(torch.linalg.eigvalsh(moved.hessian)[-1])

    gradient = dense.gradient()
    sides = sorted((found["+v_max"], found["-v_max"]))
    wanted = sorted(at(sign * 0.3 * vectors[:, -1]) for sign in (1, -1))
    pairs = [(found["first order"], at(0.3 * gradient / gradient.norm()))]
    for upper, truth in pairs + list(zip(sides, wanted, strict=True)):
        assert truth <= upper <= 1.25 * truth  # the upper ends of intervals
    with pytest.raises(UsageError, match="rho > 0"):
        largest_curvature(of, rho=0.0)


def test_gradients_of_head_and_tail():
    of = target(rule=RULE)
    row = group_gradients(of, batch_size=7)
    assert tuple(row) == GRADIENT_COLUMNS
    head, tail = Dense(of, (0,)), Dense(of, (1, 2))
    parts = 30 / 41 * head.gradient(), 11 / 41 * tail.gradient()
    assert row["gradient_norm_head"] == pytest.approx(float(parts[0].norm()))
    assert row["q"] == pytest.approx(float(parts[1].norm() / parts[0].norm()))
    assert row["gradient_norm"] == pytest.approx(float(Dense(of).gradient().norm()))
    cosine = float(parts[0] @ parts[1] / (parts[0].norm() * parts[1].norm()))
    assert row["cos_head_tail"] == pytest.approx(cosine)
    assert row["xi_needed"] == pytest.approx((11 / 30) ** 2)
    xi = {}
    for name, classes, count in (("head", (0,), 30), ("tail", (1, 2), 11)):
        of_samples = []
        chosen = torch.isin(of.samples.targets, torch.tensor(classes)).nonzero()[:, 0]
        for index in chosen:
            part = TensorSamples(of.samples.values[index][None], of.samples.targets[index][None])
            of_samples.append(Dense(Target(of.model, of.criterion, part, {})).gradient())
        stacked = torch.stack(of_samples)
        spread = float(stacked.var(0).sum())
        mean = float(stacked.mean(0).square().sum()) - spread / count
        assert row[f"signal_{name}"] == pytest.approx(count * max(mean, 0) / spread, rel=1e-9)
        xi[name] = max(mean, 0) + spread
    assert row["xi_ratio"] == pytest.approx(xi["head"] / xi["tail"])


@pytest.mark.parametrize(
    "options",
    [
        {"weight": torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)},
        {"weight": torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64), "reduction": "sum"},
        {"reduction": "sum"},
        {"ignore_index": 1, "weight": torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)},
    ],
)
def test_signals_are_of_the_loss_whose_gradient_it_is(options):
    """A group's loss is a mean over its samples of w_y·ℓ; a scale of it changes no signal."""
    of = replace(target(rule=RULE), criterion=nn.CrossEntropyLoss(**options))
    row = group_gradients(of, batch_size=7)
    alone = nn.CrossEntropyLoss(**options | {"reduction": "none"})
    for name, classes, count in (("head", (0,), 30), ("tail", (1, 2), 11)):
        chosen = torch.isin(of.samples.targets, torch.tensor(classes))
        values = alone(of.model(of.samples.values[chosen]), of.samples.targets[chosen])
        stacked = torch.stack([
            torch.cat([
                g.reshape(-1)
                for g in torch.autograd.grad(value, list(of.model.parameters()), retain_graph=True)
            ])
            for value in values
        ])  # fmt: skip
        spread = float(stacked.var(0).sum())
        mean = float(stacked.mean(0).square().sum()) - spread / count
        assert row[f"signal_{name}"] == pytest.approx(count * max(mean, 0) / spread, rel=1e-9)


def test_some_samples_stand_for_all():
    of = target(rule=RULE)
    whole, some = group_gradients(of), group_gradients(of, samples=8, seed=1)
    assert some["q"] == whole["q"]
    assert some["signal_head"] != whole["signal_head"]
    assert some["xi_ratio"] == pytest.approx(whole["xi_ratio"], rel=1.0)
    with pytest.raises(UsageError, match="at least 2"):
        group_gradients(of, samples=1)
    bare = TensorSamples(of.samples.values, of.samples.targets, {})
    with pytest.raises(UsageError, match="no head and tail"):
        group_gradients(Target(of.model, of.criterion, bare, of.identity))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "run"
    done = command(
        "train", "package:digits-lt", "--set", "training.epochs=2", "--set",
        "training.norms_every=7", "--set", "training.checkpoint_every=1", "-o", folder,
        "--threads", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    done = command("spectrum", folder, "--classes", "none", "--groups", "all", "--threads", 1)
    assert done.exit_code == 0, done.output
    return folder


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def table(done):
    assert done.exit_code == 0, done.output
    header, *rows = done.stdout.splitlines()
    return header.split(","), [row.split(",") for row in rows]


def test_the_commands(run):
    one = ("--threads", 1)
    header, rows = table(command("theory", "gradients", run, "--samples", 10, *one))
    assert tuple(header) == GRADIENT_COLUMNS
    assert [row[1:3] for row in rows] == [["epoch-000", "0"], ["epoch-001", "1"], ["last", "1"]]
    header, rows = table(command("theory", "remark2", run, "--batches", 3, *one))
    assert tuple(header) == MINIBATCH_COLUMNS
    assert [row[2] for row in rows] == ["sgd", "sam"]
    header, rows = table(command("theory", "eq2", run, "--steps", 2, "--starts", 0, *one))
    assert tuple(header) == SHARPEST_COLUMNS
    assert len(rows) == 3
    done = command("theory", "theorem6", run, "--ball", *one)
    header, (row,) = table(done)
    assert "at ascent" in done.stderr
    assert row[header.index("vacuous")] == "True"
    _, (alone,) = table(command("theory", "theorem6", run))
    assert alone[header.index("lambda_max_at")] == "w"
    assert float(row[header.index("lambda_max")]) >= float(alone[header.index("lambda_max")])


def test_logged_gradients_by_epoch(run):
    header, rows = table(command("theory", "gradients", run, "--logged"))
    assert [row[header.index("epoch")] for row in rows] == ["0", "1"]
    found = logged_gradients(RunFolder(run))
    assert [row["steps"] for row in found] == [2, 2]
    assert all(row["q"] > 0 and math.isfinite(row["signal_head"]) for row in found)


def test_gradients_are_of_the_loss_of_training_and_others_say_so(tmp_path):
    folder, words = (
        tmp_path / "run",
        ["training.epochs=2", "loss.name=ldam", "loss.reweight_from=0"],
    )
    options = [word for key in words for word in ("--set", key)]
    assert command("train", "package:digits-lt", *options, "-o", folder).exit_code == 0
    found = {}
    for criterion in ("training", "ce"):
        done = command("theory", "gradients", folder, "--criterion", criterion)
        header, (row,) = table(done)
        found[criterion] = dict(zip(header, row, strict=True))
        assert ("the network was trained with ldam" in done.stderr) is (criterion == "ce")
    assert [row["criterion"] for row in found.values()] == ["ldam-drw", "ce"]
    assert found["training"]["q"] != found["ce"]["q"]
    header, (usual,) = table(command("theory", "gradients", folder))
    assert dict(zip(header, usual, strict=True)) == found["training"]


def test_nothing_logged(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "recipe.toml").write_bytes((run / "recipe.toml").read_bytes())
    with pytest.raises(DataError, match=r"norms\.jsonl"):
        logged_gradients(RunFolder(other))
    assert command("theory", "gradients", other, "--logged").exit_code == 4
    assert command("theory", "gradients", run, "--checkpoints", "77").exit_code == 4
