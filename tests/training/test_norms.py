"""Gradient norms of head and tail against gradients taken sample by sample and summed by hand."""

import math

import pytest
import torch
from torch import nn

from saddlescope.runs import NORM_COLUMNS
from saddlescope.training.norms import gradient_norms

CRITERION = nn.CrossEntropyLoss(reduction="none")


def problem(*, batch_norm=False):
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(5)] if batch_norm else []
    model = nn.Sequential(nn.Linear(4, 5), *middle, nn.Tanh(), nn.Linear(5, 3)).double()
    inputs = torch.randn(9, 4, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 0, 2, 2, 2])
    return model, inputs, labels, labels == 2


def by_sample(model, inputs, labels):
    rows = []
    for x, y in zip(inputs, labels, strict=True):
        model.zero_grad()
        CRITERION(model(x[None]), y[None]).sum().backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model.zero_grad()
    return torch.stack(rows)


def test_norms_angles_and_signal_by_hand():
    model, inputs, labels, tail = problem()
    rows = by_sample(model, inputs, labels)
    found = gradient_norms(model, CRITERION, inputs, labels, tail)
    head, rest = rows[~tail].sum(0) / 9, rows[tail].sum(0) / 9
    whole = head + rest
    assert (found["batch"], found["batch_tail"]) == (9, 3)
    assert {"epoch", "step", *found} == set(NORM_COLUMNS)
    for key, value in (
        ("gradient_norm", whole.norm()),
        ("gradient_norm_head", head.norm()),
        ("gradient_norm_tail", rest.norm()),
        ("q", rest.norm() / head.norm()),
        ("cos_head_tail", torch.cosine_similarity(head, rest, dim=0)),
        ("cos_head", torch.cosine_similarity(whole, head, dim=0)),
        ("cos_tail", torch.cosine_similarity(whole, rest, dim=0)),
    ):
        assert found[key] == pytest.approx(float(value), rel=1e-10), key
    for name, group in (("head", rows[~tail]), ("tail", rows[tail])):
        wanted = max(len(group) * group.mean(0).square().sum() / group.var(0).sum() - 1, 0)
        assert found[f"signal_{name}"] == pytest.approx(float(wanted), rel=1e-9)


def test_batch_norm_sees_the_batch_in_the_norms_and_no_other_sample_in_the_signal():
    model, inputs, labels, tail = problem(batch_norm=True)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = gradient_norms(model, CRITERION, inputs, labels, tail)
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    values = CRITERION(model(inputs), labels)
    values[tail].sum().div(9).backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert found["gradient_norm_tail"] == pytest.approx(float(norm), rel=1e-10)
    model.load_state_dict(before)
    model.eval()
    rows = by_sample(model, inputs, labels)[tail]
    wanted = max(3 * rows.mean(0).square().sum() / rows.var(0).sum() - 1, 0)
    assert found["signal_tail"] == pytest.approx(float(wanted), rel=1e-9)


def test_a_batch_without_tail_has_no_tail_columns():
    model, inputs, labels, _ = problem()
    found = gradient_norms(model, CRITERION, inputs, labels, torch.zeros(9, dtype=torch.bool))
    missing = {key for key, value in found.items() if value is None}
    assert missing == {"gradient_norm_tail", "q", "cos_head_tail", "cos_tail", "signal_tail"}
    assert found["cos_head"] == pytest.approx(1.0)


def test_the_ratio_is_that_of_proposition_4():
    """sin of the angle between whole and head is q·sin ψ / ‖1 + q e^{iψ}‖."""
    model, inputs, labels, tail = problem()
    found = gradient_norms(model, CRITERION, inputs, labels, tail)
    q, cosine = found["q"], found["cos_head_tail"]
    length = math.sqrt(1 + 2 * q * cosine + q * q)
    assert found["cos_head"] == pytest.approx((1 + q * cosine) / length, rel=1e-10)
    assert found["cos_tail"] == pytest.approx((q + cosine) / length, rel=1e-10)


def test_weights_of_samples_are_in_the_gradients():
    """As in the step: a tail sample of weight 50 pulls fifty times as hard."""
    model, inputs, labels, tail = problem()
    weights = torch.where(tail, 50.0, 1.0).to(inputs)
    rows = by_sample(model, inputs, labels) * weights[:, None]
    found = gradient_norms(model, CRITERION, inputs, labels, tail, weights=weights)
    plain = gradient_norms(model, CRITERION, inputs, labels, tail)
    assert found["gradient_norm"] == pytest.approx(float((rows.sum(0) / 9).norm()), rel=1e-10)
    assert found["q"] == pytest.approx(50.0 * plain["q"], rel=1e-10)
    for name, group in (("head", rows[~tail]), ("tail", rows[tail])):
        wanted = max(len(group) * group.mean(0).square().sum() / group.var(0).sum() - 1, 0)
        assert found[f"signal_{name}"] == pytest.approx(float(wanted), rel=1e-9)
