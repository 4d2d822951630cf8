"""Ranks that share samples and hold other networks, criteria or data are refused, all of them."""

import pytest
import torch
from torch import nn

from saddlescope.curvature import (
    HessianOperator,
    SharedBatches,
    SharedSamples,
    TensorSamples,
    class_spectra,
)
from saddlescope.errors import UsageError
from tests.curvature.networks import convolutional, images
from tests.curvature.processes import on_ranks


def of_batches(ranks, what):
    model, criterion, options = convolutional(), nn.CrossEntropyLoss(), {}
    if what == "weights":
        model = convolutional(seed=ranks.rank)
    if what == "buffers":
        model[1].running_var.fill_(1.0 + ranks.rank)
    if what == "criterion":
        criterion = nn.CrossEntropyLoss(label_smoothing=0.1 * ranks.rank)
    if what == "class weights":
        criterion = nn.CrossEntropyLoss(weight=torch.ones(4).double() + ranks.rank)
    if what == "weight decay":
        options = {"weight_decay": 0.1 * ranks.rank}
    x, y = images(9)
    part = slice(0, 5) if ranks.rank == 0 else slice(5, 9)
    try:
        HessianOperator(model, criterion, SharedBatches([(x[part], y[part])], ranks), **options)
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("weights", "weights"),
        ("buffers", "buffers"),
        ("criterion", "criterion"),
        ("class weights", "criterion"),
        ("weight decay", "parameters chosen, weight decay or reduction"),
    ],
)
def test_what_differs_is_named_on_every_rank(what, said):
    first, second = on_ranks(2, of_batches, what)
    assert first == second
    assert f"differ in their {said}" in first


def test_nothing_differs():
    assert on_ranks(2, of_batches, "nothing") == ["", ""]


def of_samples(ranks, what):
    x, y = images(13)
    if what == "values":
        x = x + ranks.rank
    if what == "order":
        order = torch.randperm(13, generator=torch.Generator().manual_seed(ranks.rank))
        x, y = x[order], y[order]
    data = SharedSamples(TensorSamples(x, y), ranks)
    try:
        class_spectra(convolutional(), nn.CrossEntropyLoss(), data, classes="none", groups=("all",))
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("what", ["values", "order"])
def test_other_samples_are_refused(what):
    first, second = on_ranks(2, of_samples, what)
    assert first == second
    assert "differ in their data" in first
