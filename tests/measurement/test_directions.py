"""Update directions against the five rules written out, on a network small enough for that."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from saddlescope.measurement import UpdateRule, update_directions
from tests.measurement.small import Dense, target

RULE = UpdateRule(rho=0.3, rho_head=0.2, rho_tail=0.5)
HEAD, TAIL = (0,), (1, 2)


def ascended(loss, rho):
    """∇L at w + ρ·∇L/‖∇L‖."""
    slope = loss.gradient()
    return loss.gradient(loss.w + rho * slope / slope.norm())


def by_hand(on, rule):
    """Minus the sum of the perturbed gradients; head and tail each with its share."""
    whole, head, tail = Dense(on), Dense(on, HEAD), Dense(on, TAIL)
    shares = {
        "batch": (head.n / whole.n, tail.n / whole.n),
        "group": (1.0, 1.0),
        "batch-tail-x2": (head.n / whole.n, 2 * tail.n / whole.n),
    }[rule.group_reduction]
    plain_head = shares[0] * head.gradient()
    of_head = shares[0] * ascended(head, rule.rho_head)
    of_tail = shares[1] * ascended(tail, rule.rho_tail)
    return {
        ("sgd", 1): -whole.gradient(),
        ("sam", 1): -ascended(whole, rule.rho),
        ("imbsam", 1): -(plain_head + of_tail),
        ("sam-ext", 1): -(of_head + of_tail),
        ("sse-sam", 1): -(of_head + of_tail),
        ("sse-sam", 2): -(plain_head + of_tail),
    }


def found(on, rule, **rest):
    names = tuple(name for name, _ in on.model.named_parameters())
    directions = update_directions(on.model, on.criterion, on.samples, rule=rule, **rest)
    return {(d.method, d.stage): d.flat(names) for d in directions}, directions


@pytest.mark.parametrize("reduction", ["batch", "group", "batch-tail-x2"])
def test_each_method_moves_as_its_rule_says(reduction):
    on = target()
    rule = replace(RULE, group_reduction=reduction)
    updates, directions = found(on, rule)
    wanted = by_hand(on, rule)
    assert updates.keys() == wanted.keys()
    for key, update in updates.items():
        torch.testing.assert_close(update, wanted[key], rtol=1e-12, atol=1e-14)
    radii = {(d.method, d.stage): d.radii for d in directions}
    assert radii["sse-sam", 2] == {"head": 0.0, "tail": 0.5}


def test_the_split_into_batches_changes_nothing():
    on = target()
    whole, ragged = found(on, RULE)[0], found(on, RULE, batch_size=7)[0]
    for key, update in whole.items():
        torch.testing.assert_close(update, ragged[key], rtol=1e-12, atol=1e-14)


def test_a_pass_goes_over_the_samples_of_its_group_only():
    on = target()
    costs = {(d.method, d.stage): d.cost for d in found(on, RULE)[1]}
    tail = Dense(on, TAIL).n / Dense(on).n
    wanted = {("sgd", 1): 1.0, ("sam", 1): 2.0, ("imbsam", 1): 1.0 + tail, ("sam-ext", 1): 2.0}
    assert {key: costs[key] for key in wanted} == pytest.approx(wanted)


def test_the_model_is_left_as_it_was():
    on = target()
    for p in on.model.parameters():
        p.grad = torch.ones_like(p)
    before = [(p.detach().clone(), p._version) for p in on.model.parameters()]
    found(on, RULE)
    for p, (value, version) in zip(on.model.parameters(), before, strict=True):
        assert torch.equal(p, value)
        assert (p._version, p.grad.sum()) == (version, p.numel())


def test_a_small_update_keeps_its_digits():
    """Read as (w + update) − w it would be rounded to the weights' last place: an error of 3 %."""

    def faint(outputs, targets):
        return 1e-6 * torch.nn.functional.cross_entropy(outputs, targets)

    exact, single = (
        replace(target(dtype=dtype), criterion=faint) for dtype in (torch.float64, torch.float32)
    )
    truth, read = found(exact, RULE)[0], found(single, RULE)[0]
    for key, update in truth.items():
        error = (read[key].double() - update).norm() / update.norm()
        assert error < 1e-5  # some units in float32's last place, 6e-8


CRITERIA = {
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "weighted sum": nn.CrossEntropyLoss(
        weight=torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64), reduction="sum"
    ),
    "ignoring": nn.CrossEntropyLoss(ignore_index=1),
    "smooth": nn.CrossEntropyLoss(label_smoothing=0.2),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_without_radii_every_method_takes_the_step_of_the_loss_itself(name):
    """Head and tail add up to the whole in the shares of the criterion, not of the samples."""
    on = replace(target(), criterion=CRITERIA[name])
    on.model.zero_grad()
    on.criterion(on.model(on.samples.values), on.samples.targets).backward()
    slope = torch.cat([p.grad.reshape(-1) for p in on.model.parameters()])
    tiny = UpdateRule(rho=1e-9, rho_head=1e-9, rho_tail=1e-9)
    for update in found(on, tiny)[0].values():
        torch.testing.assert_close(update, -slope, rtol=1e-6, atol=1e-8)


def test_a_sum_is_grouped_in_its_own_units():
    """Under "group" each group's mean counts alike: of a sum as of a mean, times all samples."""
    rule, mean = replace(RULE, group_reduction="group"), target()
    of_mean, of_sum = (
        found(replace(mean, criterion=nn.CrossEntropyLoss(reduction=r)), rule)[0]
        for r in ("mean", "sum")
    )
    for key in of_mean.keys() - {("sgd", 1)}:
        torch.testing.assert_close(of_sum[key], 41 * of_mean[key])


def test_without_a_tail_only_the_methods_of_all_samples_are_left():
    on = target()
    plain = type(on.samples)(on.samples.values, on.samples.targets)
    directions = update_directions(on.model, on.criterion, plain)
    assert [d.method for d in directions] == ["sgd", "sam"]
