"""Checkpoints as other programs write them, on real wrappers where torch has them."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from saddlescope.errors import DataError
from saddlescope.training.checkpoints import load_checkpoint, load_weights
from saddlescope.training.foreign_weights import PREFIXES, fitted


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3))


class Lightning(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


def compiled_part():
    model = net()
    model[0] = torch.compile(model[0], backend="eager")
    return model


FILES = {
    "plain": lambda: net().state_dict(),
    "DataParallel": lambda: nn.DataParallel(net()).state_dict(),
    "compiled": lambda: torch.compile(net(), backend="eager").state_dict(),
    "a compiled part": lambda: compiled_part().state_dict(),
    "compiled in DataParallel": lambda: nn.DataParallel(
        torch.compile(net(), backend="eager")
    ).state_dict(),
    "Lightning": lambda: {"epoch": 3, "state_dict": Lightning(net()).state_dict()},
    "all three": lambda: {
        "state_dict": Lightning(
            nn.DataParallel(torch.compile(net(), backend="eager"))
        ).state_dict()
    },
    "ImageNet example": lambda: {
        "epoch": 9, "arch": "x", "state_dict": nn.DataParallel(net()).state_dict(),
        "best_acc1": torch.tensor(1.0),
    },
    "cifar scripts": lambda: {"net": net().state_dict(), "acc": 90.0, "epoch": 3},
    "model": lambda: {"model": net().state_dict(), "optimizer": {}},
    "model_state_dict": lambda: {"model_state_dict": net().state_dict(), "loss": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_loads_the_same_weights(kind, tmp_path, caplog):
    path = tmp_path / "w.pt"
    torch.save(FILES[kind](), path)
    model = net(seed=1)
    with caplog.at_level(logging.INFO, logger="saddlescope"):
        load_weights(model, load_checkpoint(path), origin="w.pt")
    for name, value in net().state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    if kind in ("plain", "model"):
        assert not caplog.messages
    elif kind == "all three":
        assert "entry 'state_dict'" in caplog.text
        assert all(f"took {prefix!r}" in caplog.text for prefix in PREFIXES)


class Model(nn.Module):
    """Its own names begin as a wrapper's do."""

    def __init__(self):
        super().__init__()
        self.model, self.module = nn.Linear(2, 2), nn.Linear(2, 2)


def test_names_of_the_models_own_are_not_taken_off(caplog):
    one, two = Model(), Model()
    with caplog.at_level(logging.INFO, logger="saddlescope"):
        load_weights(two, one.state_dict(), origin="w.pt")
        load_weights(two, nn.DataParallel(one).state_dict(), origin="w.pt")
    assert len(caplog.messages) == 1
    assert torch.equal(two.model.weight, one.model.weight)
    assert torch.equal(two.module.weight, one.module.weight)


NAMES = st.lists(
    st.sampled_from(["model.a", "a", "module.b", "c.model.d", "model.module.e", "f"]),
    unique=True, min_size=1,
)  # fmt: skip


@given(NAMES, st.lists(st.sampled_from(sorted(PREFIXES)), max_size=3, unique=True))
def test_wrapping_any_model_is_undone(names, prefixes):
    front = "".join(prefixes)
    found, taken = fitted({front + name: name for name in names}, names)
    assert found == {name: name for name in names}
    assert sorted(taken) == sorted(prefixes)


def test_what_does_not_fit_is_named_in_the_models_own_names():
    content = nn.DataParallel(nn.Sequential(nn.Linear(6, 8), nn.Tanh())).state_dict()
    with pytest.raises(DataError, match=r"Sequential: 7 missing \(first: 2\.weight\)$"):
        load_weights(net(), content, origin="w.pt")
    with pytest.raises(DataError, match=r"4 unknown \(first: other\.0\.weight\)"):
        load_weights(
            nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)),
            {
                f"other.{k}": v
                for k, v in nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).state_dict().items()
            },
            origin="w.pt",
        )
