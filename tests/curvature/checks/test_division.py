"""A loss that is no mean over samples is not measured as one, however its samples are sorted.

Sorted data, as a folder of images by class gives, have batches of one class, whose halves weigh
alike; and a loss near 0 says little in float32. Neither may hide a matrix that depends on how the
samples are divided.
"""

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from saddlescope.curvature import (
    BatchLoss,
    HessianOperator,
    class_spectra,
    extreme_eigenvalues,
)
from saddlescope.errors import OperatorError
from tests.curvature.networks import dense_hessian

WEIGHTS = torch.tensor([1.0, 4.0, 10.0])
COUNTS = (60, 20, 10)


def data():
    y = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
    x = torch.randn(len(y), 5, generator=torch.Generator().manual_seed(1))
    return x + 0.5 * F.one_hot(y, 5), y


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


def holds(estimate, truth):
    return estimate.lower <= float(truth) <= estimate.upper


def in_batches(x, y, size=20):
    return list(zip(x.split(size), y.split(size), strict=True))


class Focal(nn.Module):
    """Weighted, and divided by the number of samples all the same."""

    reduction = "mean"

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", WEIGHTS)

    def forward(self, outputs, targets):
        losses = F.cross_entropy(outputs, targets, reduction="none")
        weights = self.weight.to(outputs.dtype)[targets]
        return (weights * (1 - torch.exp(-losses)).square() * losses).mean()


def margin(outputs, targets):
    """Divided by the sum of weights, and says nothing of it."""
    return F.cross_entropy(outputs - 0.3 * F.one_hot(targets, 3), targets, WEIGHTS.to(outputs))


@pytest.mark.parametrize("criterion", [Focal(), margin])
@pytest.mark.parametrize("backwards", [False, True])
def test_weights_that_were_counted_wrongly_are_found_in_sorted_data(criterion, backwards):
    x, y = data()
    order = torch.arange(len(y)).flip(0) if backwards else torch.arange(len(y))
    operator = HessianOperator(network(), criterion, in_batches(x[order], y[order]))
    words = r"would have to enter with [\d.]+ and [\d.]+ instead of .*BatchLoss"
    with pytest.raises(OperatorError, match=words):
        extreme_eigenvalues(operator)
    if not backwards:
        with pytest.raises(OperatorError, match=words):
            class_spectra(network(), criterion, (x, y), classes="none", batch_size=20)


@pytest.mark.parametrize("criterion", [Focal(), margin])
def test_of_one_batch_the_matrix_is_that_of_its_loss(criterion):
    x, y = data()
    model = network()
    ends = extreme_eigenvalues(HessianOperator(model, criterion, [(x, y)]), certify=True)
    assert any("all samples were evaluated as one batch" in note for note in ends.notes)
    truth = dense_hessian(model.double(), lambda f: criterion(f(x.double()), y))
    values = torch.linalg.eigvalsh(truth)
    assert holds(ends.lambda_max, values[-1])
    assert holds(ends.lambda_min, values[0])


def test_a_weight_said_in_words_is_the_right_matrix():
    x, y = data()
    model = network().double()
    loss = BatchLoss(
        lambda net, batch: margin(net(batch[0]), batch[1]),
        weight=lambda batch: WEIGHTS[batch[1]].sum(),
    )
    ends = extreme_eigenvalues(HessianOperator(model, loss, in_batches(x.double(), y)))
    truth = torch.linalg.eigvalsh(dense_hessian(model, lambda f: margin(f(x.double()), y)))
    assert holds(ends.lambda_max, truth[-1])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("own", "said"),
    [("mean", None), ("sum", None), ("none", None), ("none", "mean"), ("none", "sum")],
)
@settings(max_examples=5, deadline=None)
@given(size=st.integers(1, 90))
def test_what_a_criterion_reduces_itself_and_what_is_said_of_it(own, said, weighted, size):
    x, y = data()
    model = network().double()
    weight = WEIGHTS.double() if weighted else None
    criterion = nn.CrossEntropyLoss(weight=weight, reduction=own)
    batches = in_batches(x.double(), y, size)
    operator = HessianOperator(model, criterion, batches, reduction=said)

    def whole(f):
        losses = criterion(f(x.double()), y)
        return losses.sum() if said == "sum" else losses.mean()

    truth = torch.linalg.eigvalsh(dense_hessian(model, whole))
    ends = extreme_eigenvalues(operator)
    assert holds(ends.lambda_max, truth[-1])
    assert holds(ends.lambda_min, truth[0])


def test_probabilities_at_several_positions_are_counted_as_torch_does():
    torch.manual_seed(0)
    model = nn.Conv1d(3, 4, 1).double().eval()
    batches = [
        (torch.randn(5, 3, d).double(), torch.softmax(torch.randn(5, 4, d).double(), 1))
        for d in (2, 9)
    ]

    def whole(f):
        losses = [F.cross_entropy(f(x), p, reduction="sum") for x, p in batches]
        return sum(losses) / (5 * 2 + 5 * 9)

    ends = extreme_eigenvalues(HessianOperator(model, nn.CrossEntropyLoss(), batches))
    assert holds(ends.lambda_max, torch.linalg.eigvalsh(dense_hessian(model, whole))[-1])


def test_targets_of_several_shapes_under_a_function_are_noted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Linear(4, 9)).double().eval()
    batches = [(x, (x * 2 + 1) % 9) for x in (torch.randint(0, 9, (4, d)) for d in (3, 12))]

    def tokens(outputs, targets):
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    ends = extreme_eigenvalues(HessianOperator(model, tokens, batches))
    assert [note for note in ends.notes if re.search(r"over something else \(tokens\)", note)]
    alike = HessianOperator(model, tokens, [batches[0], batches[0]])
    assert extreme_eigenvalues(alike).notes == ()


class Mixing(nn.Module):
    """Outputs of a sample depend on the others in its batch, or on random numbers."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer, self.how = nn.Linear(5, 8), nn.Linear(8, 3), how

    def forward(self, x):
        hidden = torch.tanh(self.inner(x))
        if self.how == "batch":
            hidden = hidden - 0.5 * hidden.mean(0, keepdim=True)
        else:
            hidden = F.dropout(hidden, 0.2)  # on in eval mode too
        return self.outer(hidden)


def learnt(model):
    """Well-separated data, learnt until little of the loss is left."""
    y = torch.arange(90) % 3
    x = 0.3 * torch.randn(90, 5, generator=torch.Generator().manual_seed(2))
    x += 3 * F.one_hot(y, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    torch.manual_seed(3)
    for _ in range(800):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss < 2e-3
    return model.eval(), x, y


@pytest.mark.parametrize(
    ("how", "words"),
    [("batch", "gives a sample other outputs when other samples"), ("random", "random numbers")],
)
def test_a_network_that_has_learnt_its_samples_hides_nothing_in_float32(how, words):
    model, x, y = learnt(Mixing(how))
    for size in (10, 90):
        with pytest.raises(OperatorError, match=f"{words}|something else that the model reads"):
            extreme_eigenvalues(
                HessianOperator(model, nn.CrossEntropyLoss(), in_batches(x, y, size))
            )


def test_rounding_within_the_model_is_not_taken_for_mixing():
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            return self.layer(x.float().softmax(1).to(x.dtype) * 30)

    model, x, y = learnt(Inside())
    ends = extreme_eigenvalues(HessianOperator(model, nn.CrossEntropyLoss(), in_batches(x, y, 7)))
    assert ends.notes == ()
