"""Data sets whose items are mappings, tuples or pairs, held to the same samples as tensors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.curvature import BatchLoss, class_spectra
from saddlescope.curvature.objective.items import class_number, collated, parted
from saddlescope.curvature.objective.samples import as_samples
from saddlescope.errors import DataError

GENERATOR = torch.Generator().manual_seed(1)
IDS = torch.randint(0, 9, (12, 5), generator=GENERATOR)
MASK = torch.ones(12, 5, dtype=torch.long)
MASK[::2, 3:] = 0
CLASSES = torch.arange(12) % 3


class Classifier(nn.Module):
    """As in Hugging Face: keyword arguments, a mapping of logits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.out = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        mean = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        return {"logits": self.out(torch.tanh(mean))}


class Items(torch.utils.data.Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.make(index)


def inputs_of(index):
    return {"input_ids": IDS[index], "attention_mask": MASK[index]}


KINDS = {
    "pair of a mapping": lambda i: (inputs_of(i), int(CLASSES[i])),
    "pair of a tuple": lambda i: ((IDS[i], MASK[i]), CLASSES[i]),
    "pair of arrays": lambda i: ((IDS[i].numpy(), MASK[i].numpy()), np.int64(CLASSES[i])),
    "labels": lambda i: inputs_of(i) | {"labels": int(CLASSES[i])},
    "label": lambda i: inputs_of(i) | {"label": CLASSES[i]},
    "lists": lambda i: {k: v.tolist() for k, v in inputs_of(i).items()} | {"label": CLASSES[i]},
}


def criterion(outputs, targets):
    return F.cross_entropy(outputs["logits"], targets)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_samples_give_the_same_rows(kind):
    model = Classifier().eval()
    table = class_spectra(model, criterion, Items(KINDS[kind]), classes=[1], batch_size=5)
    exact = Classifier().double().eval()
    for name, indices in (("all", torch.arange(12)), ("1", torch.arange(1, 12, 3))):

        def loss(*weights, indices=indices):
            named = dict(zip(dict(exact.named_parameters()), weights, strict=True))
            outputs = torch.func.functional_call(exact, named, (IDS[indices], MASK[indices]))
            return criterion(outputs, CLASSES[indices])

        weights = tuple(exact.parameters())
        blocks = torch.autograd.functional.hessian(loss, weights)
        n = [w.numel() for w in weights]
        matrix = torch.cat(
            [
                torch.cat([b.reshape(n[i], n[j]) for j, b in enumerate(row)], 1)
                for i, row in enumerate(blocks)
            ]
        )
        truth = torch.linalg.eigvalsh(matrix)
        row = table[table["name"] == name].iloc[0]
        assert row["n"] == len(indices)
        assert row["lambda_min_lower"] <= truth[0] <= row["lambda_min_upper"]
        assert row["lambda_max_lower"] <= truth[-1] <= row["lambda_max_upper"]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((1.0, 2, 3), "item 0 of list is a tuple of 3: expected"),
        ("text", "item 0 of list is a str: expected"),
        ({"x": 1.0}, "is a mapping of x: its class is expected under one of labels, label"),
        ((1.0, "cat"), "is a str 'cat': expected one class number"),
    ],
)
def test_items_that_are_no_samples(item, message):
    with pytest.raises(DataError, match=message):
        as_samples([item, item, item])


def test_an_item_that_cannot_be_read_names_its_index_and_the_cause():
    def make(index):
        if index == 7:
            raise FileNotFoundError(2, "No such file or directory", "cat.png")
        return IDS[index], 0

    with pytest.raises(DataError, match=r"item 7 of Items cannot be read: FileNotFound.*cat\.png"):
        as_samples(Items(make))


def test_batches_of_items():
    assert parted(({"a": 1.5}, np.int32(4)), name="item") == ({"a": 1.5}, 4)
    assert class_number(np.int32(4)) == class_number(torch.tensor(4)) == 4
    none = (0.5, 2.0, np.float32(1), torch.tensor(1.0), "cat", [1, 2], torch.ones(2))
    assert [class_number(value) for value in none] == [None] * len(none)
    both = collated([{"a": 1.5, "b": (IDS[0], 2)}, {"a": 2.5, "b": (IDS[1], 3)}])
    assert torch.equal(both["a"], torch.tensor([1.5, 2.5]))
    assert torch.equal(both["b"][0], IDS[:2])
    assert torch.equal(both["b"][1], torch.tensor([2, 3]))
    with pytest.raises(DataError, match=r"inputs\['a'\] of a data set have several shapes"):
        collated([{"a": IDS[0]}, {"a": IDS[0, :2]}])
    with pytest.raises(DataError, match="inputs of a data set are str"):
        collated(["a", "b"])


def test_numbers_that_a_loss_compares_with_keep_their_type():
    """Targets of 0. and 1. are what BCEWithLogitsLoss takes, and no classes."""
    torch.manual_seed(0)
    x, y = torch.randn(12, 3).double(), (torch.arange(12) % 2).double()
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double().eval()
    options = {"classes": "none", "groups": ("all",)}
    listed = class_spectra(model, nn.BCEWithLogitsLoss(), Items(lambda i: (x[i], y[i])), **options)
    paired = class_spectra(model, nn.BCEWithLogitsLoss(), (x, y), **options)
    assert listed["lambda_max"][0] == pytest.approx(paired["lambda_max"][0], rel=1e-9)


def test_two_tensors_in_a_list_are_two_batches_for_a_loss_of_your_own():
    torch.manual_seed(0)
    model = nn.Linear(4, 2).double().eval()
    loss = BatchLoss(lambda net, batch: net(batch).square().mean())
    batches = [torch.randn(8, 4).double() for _ in range(2)]
    table = class_spectra(model, loss, batches, classes="none")
    whole = class_spectra(model, loss, [torch.cat(batches)], classes="none")
    assert table["n"].tolist() == whole["n"].tolist() == [16]
    assert table["lambda_max"][0] == pytest.approx(whole["lambda_max"][0], rel=1e-9)
