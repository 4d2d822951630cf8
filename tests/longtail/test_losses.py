import collections
import math

import numpy as np
import pandas as pd
import pytest
import torch

from saddlescope.errors import DataError, UsageError
from saddlescope.longtail import make_loss
from saddlescope.longtail.counts import class_counts

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


NAMES = ("ce", "ldam", "la", "vs", "cb")
OPTIONS = [(name, {}) for name in NAMES] + [
    ("ldam", {"form": "original"}),
    ("vs", {"reweight_beta": 0.9}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.parametrize("shape", [(4,), (3,), (5, 4), (2, 3, 2)])
def test_dense_outputs_are_so_many_samples(name, options, shape):
    """(N, C, L) with L = C was taken for another class axis: a wrong number."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, *shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(4, (2, *shape), generator=generator)
    flat = logits.movedim(1, -1).reshape(-1, 4), targets.reshape(-1)
    for reduction in ("mean", "sum", "none"):
        loss = make_loss(name, COUNTS, reduction=reduction, **options)
        wanted = loss(*flat)
        wanted = wanted.reshape(targets.shape) if reduction == "none" else wanted
        torch.testing.assert_close(loss(logits, targets), wanted)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.parametrize("classes", [4, 120])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
def test_what_is_ignored_counts_for_nothing(name, options, classes, dtype):
    counts = [200 - i for i in range(classes)]
    logits = torch.randn(7, classes, generator=torch.Generator().manual_seed(0))
    ignored = TARGETS.clone()
    ignored[[1, 4]] = -100
    kept = [0, 2, 3, 5, 6]
    for reduction in ("mean", "sum"):
        loss = make_loss(name, counts, reduction=reduction, **options)
        wanted = loss(logits[kept], TARGETS[kept])
        torch.testing.assert_close(loss(logits, ignored.to(dtype)), wanted)
    each = make_loss(name, counts, reduction="none", **options)(logits, ignored)
    assert each[[1, 4]].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["ce", "la", "vs"])
def test_probabilities_mix_the_losses_of_their_labels(name):
    """Each is a cross-entropy of logits without the target, so it is linear in the labels."""
    one, two = TARGETS, TARGETS.flip(0)
    hot = torch.nn.functional.one_hot
    mixed = 0.7 * hot(one, 4).double() + 0.3 * hot(two, 4).double()
    loss = make_loss(name, COUNTS)
    wanted = 0.7 * loss(LOGITS, one) + 0.3 * loss(LOGITS, two)
    torch.testing.assert_close(loss(LOGITS, mixed), wanted)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.parametrize(
    ("logits", "targets", "error", "message"),
    [
        (
            torch.zeros(6, 1),
            torch.zeros(6).long(),
            UsageError,
            r"logits of shape \(6, 1\): expected",
        ),
        (torch.zeros(6, 5), torch.zeros(6).long(), UsageError, r"logits of shape \(6, 5\)"),
        (torch.zeros(4), torch.tensor(1), UsageError, r"logits of shape \(4,\)"),
        (torch.zeros(6, 4), torch.zeros(6, 1).long(), UsageError, r"targets of shape \(6, 1\)"),
        (torch.zeros(6, 4), torch.zeros(5).long(), UsageError, r"targets of shape \(5,\)"),
        (torch.zeros(2, 4, 3), torch.zeros(2, 4).long(), UsageError, r"expected \(2, 3\)"),
        (torch.zeros(3, 4), torch.tensor([0, 4, 1]), DataError, "class number 4 in the targets"),
        (torch.zeros(3, 4), torch.tensor([0, -1, -100]), DataError, "class number -1"),
    ],
)
def test_one_line_and_never_a_wrong_number(name, options, logits, targets, error, message):
    with pytest.raises(error, match=message):
        make_loss(name, COUNTS, **options)(logits, targets)


@pytest.mark.parametrize(
    ("name", "options"), [("ldam", {}), ("cb", {}), ("vs", {"reweight_beta": 0.9})]
)
def test_probabilities_where_the_loss_knows_none(name, options):
    with pytest.raises(UsageError, match="takes class numbers, and the targets are float32"):
        make_loss(name, COUNTS, **options)(torch.zeros(3, 4), torch.full((3, 4), 0.25))


LABELS = [0] * 50 + [2] * 5 + [1] * 20
COUNTED = {
    "list": [50, 20, 5],
    "bincount": np.bincount(LABELS),
    "torch": torch.bincount(torch.tensor(LABELS)),
    "floats": np.array([50.0, 20.0, 5.0]),
    "Counter": collections.Counter(reversed(LABELS)),
    "value_counts": pd.Series(LABELS).value_counts(ascending=True),
    "Series": pd.Series([50, 20, 5]),
    "numpy ints": list(np.bincount(LABELS)),
}


@pytest.mark.parametrize("kind", COUNTED)
def test_counts_as_people_hold_them(kind):
    assert class_counts(COUNTED[kind]) == [50, 20, 5]
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    for name in NAMES:
        wanted = make_loss(name, [50, 20, 5])(logits, targets)
        assert torch.equal(make_loss(name, COUNTED[kind])(logits, targets), wanted)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (collections.Counter(LABELS).values(), "a dict_values, which has no order"),
        ({50, 20, 5}, "a set, which has no order"),
        ([0.66, 0.27, 0.07], "count of class 0 is 0.66: expected a whole number"),
        ([50, float("nan")], "count of class 1 is nan"),
        ([50, "many"], "count of class 1 is 'many'"),
        (np.ones((2, 3)), "count of class 0 is"),
        ({0: 50, 2: 5}, "none for class 1, but one for 2"),
        ({"cat": 50, "dog": 5}, "none for class 0, but one for '"),
        ([50, 0], "at least 1 training image in every class"),
        ([], "at least 1 training image in every class"),
    ],
)
def test_counts_that_tell_no_classes(counts, message):
    with pytest.raises(UsageError, match=message):
        make_loss("la", counts)
