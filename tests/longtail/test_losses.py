import math

import pytest
import torch

from saddlescope.errors import UsageError
from saddlescope.longtail import make_loss

COUNTS = (500, 120, 31, 5)
LOGITS = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
TARGETS = torch.tensor([0, 1, 2, 3, 3, 0, 2])


def cross_entropy(z, y):
    return math.log(sum(math.exp(v) for v in z)) - z[y]


def ce(z, y):
    return cross_entropy(z, y)


def margin(y, largest):
    return largest * (min(COUNTS) / COUNTS[y]) ** 0.25


def ldam(z, y, *, max_margin=0.5, scale=30.0):
    return cross_entropy([v - scale * margin(y, max_margin) * (j == y) for j, v in enumerate(z)], y)


def ldam_original(z, y, *, max_margin=0.5, scale=30.0):
    return cross_entropy(
        [scale * (v - margin(y, max_margin) * (j == y)) for j, v in enumerate(z)], y
    )


def la(z, y, *, tau=0.75):
    return cross_entropy(
        [v + tau * math.log(n / sum(COUNTS)) for v, n in zip(z, COUNTS, strict=True)], y
    )


def vs(z, y, *, gamma=0.05, tau=0.75):
    scaled = [v * (n / max(COUNTS)) ** gamma for v, n in zip(z, COUNTS, strict=True)]
    return la(scaled, y, tau=tau)


def class_weights(beta):
    inverse = [(1 - beta) / (1 - beta**n) for n in COUNTS]
    return [len(COUNTS) * value / sum(inverse) for value in inverse]


def cb(z, y, *, beta=0.9999):
    return class_weights(beta)[y] * cross_entropy(z, y)


CASES = [
    ("cb", {}, cb),
    ("cb", {"beta": 0.9}, lambda z, y: cb(z, y, beta=0.9)),
    ("vs", {"reweight_beta": 0.99}, lambda z, y: class_weights(0.99)[y] * vs(z, y)),
    ("ce", {}, ce),
    ("ldam", {}, ldam),
    (
        "ldam",
        {"max_margin": 0.3, "scale": 10.0},
        lambda z, y: ldam(z, y, max_margin=0.3, scale=10.0),
    ),
    ("ldam", {"form": "original"}, ldam_original),
    ("la", {}, la),
    ("la", {"tau": 1.5}, lambda z, y: la(z, y, tau=1.5)),
    ("vs", {}, vs),
    ("vs", {"gamma": 0.3, "tau": 1.0}, lambda z, y: vs(z, y, gamma=0.3, tau=1.0)),
]


@pytest.mark.parametrize(("name", "options", "by_hand"), CASES)
def test_the_formula_and_its_reductions(name, options, by_hand):
    expected = torch.tensor(
        [by_hand(z, y) for z, y in zip(LOGITS.tolist(), TARGETS.tolist(), strict=True)],
        dtype=torch.float64,
    )
    for reduction, value in (
        ("none", expected),
        ("sum", expected.sum()),
        ("mean", expected.mean()),
    ):
        loss = make_loss(name, COUNTS, reduction=reduction, **options)
        assert loss.reduction == reduction
        torch.testing.assert_close(loss(LOGITS, TARGETS), value, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("name", ["ce", "ldam", "la", "vs", "cb"])
def test_the_loss_is_twice_differentiable_and_keeps_the_dtype(name):
    loss = make_loss(name, COUNTS)
    assert torch.autograd.gradgradcheck(
        lambda z: loss(z, TARGETS), LOGITS.clone().requires_grad_(True)
    )
    assert loss(LOGITS.float(), TARGETS).dtype == torch.float32


def test_special_cases_are_one_another():
    plain = make_loss("ce", COUNTS)(LOGITS, TARGETS)
    for name, options in (
        ("ldam", {"max_margin": 0.0}),
        ("la", {"tau": 0.0}),
        ("vs", {"gamma": 0.0, "tau": 0.0}),
        ("cb", {"beta": 0.0}),
        ("la", {"tau": 0.0, "reweight_beta": 0.0}),
    ):
        torch.testing.assert_close(make_loss(name, COUNTS, **options)(LOGITS, TARGETS), plain)


def test_class_weights_go_from_none_to_inverse_counts():
    inverse = torch.tensor(COUNTS, dtype=torch.float64).reciprocal()
    weights = make_loss("cb", COUNTS, beta=1 - 1e-12).class_weights
    torch.testing.assert_close(weights, inverse / inverse.mean(), rtol=1e-8, atol=0)


def test_the_rarest_class_has_the_largest_margin():
    loss = make_loss("ldam", COUNTS)
    margins = loss.scaled_margins / 30
    assert margins.argmax().item() == 3
    assert margins.max().item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "counts", "options", "message"),
    [
        ("ldma", COUNTS, {}, r"unknown loss 'ldma': did you mean 'ldam'\?"),
        ("focal", COUNTS, {}, "choose from ce, ldam, la, vs, cb"),
        ("ce", COUNTS, {"tau": 1.0}, "loss 'ce' has no option 'tau': it takes none"),
        ("la", COUNTS, {"gamma": 1.0}, "loss 'la' has no option 'gamma': it takes tau"),
        ("ldam", COUNTS, {"form": "new"}, "unknown LDAM form 'new'"),
        ("ce", COUNTS, {"reduction": "max"}, "reduction='max'"),
        ("la", (3, 0), {}, "at least 1 training image in every class"),
        ("cb", COUNTS, {"beta": 1.0}, "beta = 1.0: expected a number from 0"),
        ("la", (), {}, "at least 1 training image in every class"),
    ],
)
def test_what_cannot_be_meant_is_named(name, counts, options, message):
    with pytest.raises(UsageError, match=message):
        make_loss(name, counts, **options)
