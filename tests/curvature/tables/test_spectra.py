"""Tables of classes and groups: right samples, right rows, rows independent of one another."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from saddlescope.curvature import TensorSamples, class_spectra, iter_spectra
from saddlescope.errors import DataError, OperatorError, UsageError
from tests.curvature.networks import convolutional, dense_hessian, images

GROUPS = {"head": (0, 1), "tail": (2, 3), "few": ()}


def table(**options):
    inputs, targets = images(40)
    options = {"rtol": 1e-7, "groups": ("all", "tail")} | options
    return class_spectra(
        convolutional(), nn.CrossEntropyLoss(), TensorSamples(inputs, targets, GROUPS), **options
    )


def test_every_row_equals_the_dense_hessian_of_its_samples():
    model, (inputs, targets) = convolutional(), images(40)
    frame = table(batch_size=7)
    assert frame["name"].tolist() == ["all", "tail", "0", "1", "2", "3"]
    assert frame["kind"].tolist() == ["group"] * 2 + ["class"] * 4
    for _, row in frame.iterrows():
        wanted = {"all": (0, 1, 2, 3), "tail": (2, 3)}.get(row["name"])
        wanted = (int(row["name"]),) if wanted is None else wanted
        keep = torch.isin(targets, torch.tensor(wanted))

        def loss(f, keep=keep):
            return F.cross_entropy(f(inputs[keep]), targets[keep])

        values = torch.linalg.eigvalsh(dense_hessian(model, loss))
        assert row["n"] == keep.sum()
        assert row["lambda_max"] == pytest.approx(values[-1].item(), rel=1e-6)
        assert row["lambda_min"] == pytest.approx(values[0].item(), rel=1e-6)
        assert row["lambda_ratio"] == pytest.approx(abs(values[-1] / values[0]).item(), rel=1e-6)
        assert row["loss"] == pytest.approx(loss(model).item())
        gradients = torch.autograd.grad(loss(model), list(model.parameters()))
        norm = torch.cat([g.reshape(-1) for g in gradients]).norm().item()
        assert row["gradient_norm"] == pytest.approx(norm)


def test_a_row_does_not_depend_on_its_neighbours():
    whole = table().set_index("name")
    alone = table(classes=[2], groups=()).set_index("name")
    pd.testing.assert_series_equal(whole.loc["2"], alone.loc["2"])


def test_seed_changes_the_start_and_not_the_answer():
    one, two = table(seed=0, classes=[0], groups=()), table(seed=1, classes=[0], groups=())
    assert one["lambda_min_upper"][0] != two["lambda_min_upper"][0]
    assert one["lambda_min"][0] == pytest.approx(two["lambda_min"][0], rel=1e-9)


def test_rows_come_as_they_finish():
    inputs, targets = images(40)
    rows = iter_spectra(
        convolutional(), nn.CrossEntropyLoss(), (inputs, targets), classes="all", groups=()
    )
    assert next(rows).name == "0"


class Listed(Dataset):
    groups = GROUPS

    def __len__(self):
        return 40

    def __getitem__(self, index):
        inputs, targets = images(40)
        return inputs[index], int(targets[index])


@pytest.mark.parametrize(
    "dataset", [images(40), list(images(40)), TensorDataset(*images(40)), Listed()]
)
def test_data_sets_of_several_kinds(dataset):
    frame = class_spectra(
        convolutional(), nn.CrossEntropyLoss(), dataset, classes=[1], groups=(), rtol=1e-7
    )
    pd.testing.assert_frame_equal(frame, table(classes=[1], groups=()))


class TestRefusals:
    def test_class_without_samples(self):
        with pytest.raises(DataError, match=r"class 9 has no samples.*0-3"):
            table(classes=[0, 9])

    def test_unknown_group(self):
        with pytest.raises(UsageError, match=r"'middle' is not defined.*all, head, tail"):
            table(groups=("middle",))

    def test_empty_group(self):
        with pytest.raises(DataError, match="'few' has no samples"):
            table(groups=("few",))

    def test_nothing_asked_for(self):
        with pytest.raises(UsageError, match="nothing to measure"):
            table(classes="none", groups=())

    def test_model_in_train_mode(self):
        model = convolutional(dropout=0.1).train()
        with pytest.raises(OperatorError, match=r"model\.eval"):
            class_spectra(model, nn.CrossEntropyLoss(), images(40))

    def test_what_is_no_data_set(self):
        with pytest.raises(UsageError, match="cannot read samples from int"):
            class_spectra(convolutional(), nn.CrossEntropyLoss(), 3)

    def test_class_numbers_that_are_floats(self):
        inputs, targets = images(40)
        with pytest.raises(DataError, match="must be integers"):
            class_spectra(convolutional(), nn.CrossEntropyLoss(), (inputs, targets.double()))


@pytest.mark.parametrize("how", ["ignored", "weightless"])
def test_a_first_sample_that_counts_for_nothing(how):
    x, y = images(30)
    model, weight = convolutional(), None
    if how == "ignored":
        y = y.clone()
        y[0] = -100
    else:
        weight = torch.ones(4).double()
        weight[y[0]] = 0.0
    criterion = nn.CrossEntropyLoss(weight=weight)
    row = class_spectra(model, criterion, (x, y), classes="none").iloc[0]
    truth = torch.linalg.eigvalsh(dense_hessian(model, lambda f: criterion(f(x), y)))
    assert row.lambda_max_lower <= float(truth[-1]) <= row.lambda_max_upper


def test_samples_that_all_count_for_nothing_are_refused():
    x, y = images(6)
    nothing = x, torch.full_like(y, -100)
    with pytest.raises(DataError, match="weights of these samples sum to zero"):
        class_spectra(convolutional(), nn.CrossEntropyLoss(), nothing, classes="none")
