"""Checkpoints as other programs write them, on real wrappers where torch has them."""

import argparse
import json
import logging
import pathlib
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
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
    with pytest.raises(DataError, match=r"1 missing \(first: 1\.bias\); 1 unknown \(first: x\)"):
        load_weights(
            nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)),
            {**nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3, bias=False)).state_dict(),
             "x": torch.ones(1)},
            origin="w.pt",
        )  # fmt: skip


class Tied(nn.Module):
    """As a language model: its last layer is its embedding."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def hugging_face(folder):
    """A folder with two parts and their index."""
    folder.mkdir()
    state = net().state_dict()
    places = {name: f"model-{1 + (i > 2)}-of-2.safetensors" for i, name in enumerate(state)}
    for file in set(places.values()):
        save_file({k: v for k, v in state.items() if places[k] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    return folder


def timm(path):
    torch.save(
        {"epoch": 3, "arch": "x", "state_dict": net().state_dict(),
         "args": argparse.Namespace(lr=0.1), "state_dict_ema": net(2).state_dict()}, path,
    )  # fmt: skip
    return path


def lightning(path):
    state = {f"net.{key}": value for key, value in net().state_dict().items()}
    content = {
        "state_dict": state | {"loss.weight": torch.ones(3)}, "pytorch-lightning_version": "2.5",
        "hyper_parameters": {"folder": pathlib.PurePosixPath("a"), "optimizer": torch.optim.Adam},
    }  # fmt: skip
    torch.save(content, path)
    return path


def averaged(path):
    torch.save(torch.optim.swa_utils.AveragedModel(net()).state_dict(), path)
    return path


def renamed(path):
    save_file(net().state_dict(), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors").rename(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (hugging_face, ""),
        (timm, "the averaged weights 'state_dict_ema' are not taken"),
        (lightning, "took 'net.' off the names, left out 1 more (first: loss.weight)"),
        (averaged, "AveragedModel"),
        (renamed, ""),
    ],
)
def test_checkpoints_as_they_lie_on_disks(make, said, tmp_path, caplog):
    model = net(seed=1)
    with caplog.at_level(logging.INFO, logger="saddlescope"):
        content = load_checkpoint(make(tmp_path / "weights"), strict=False)
        load_weights(model, content, origin="w")
    for name, value in net().state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert said in caplog.text
    assert bool(said) == bool(caplog.messages)


def test_averaged_weights_are_taken_when_they_are_named(tmp_path):
    content = load_checkpoint(timm(tmp_path / "w"), strict=False)
    model = net()
    load_weights(model, content, origin="w", entry="state_dict_ema")
    assert torch.equal(model[0].weight, net(2)[0].weight)
    both = {f"{front}.{key}": value for front, seed in (("net", 0), ("ema", 2))
            for key, value in net(seed).state_dict().items()}  # fmt: skip
    with pytest.raises(DataError, match=r"under each of 'ema\.', 'net\.': name one as the entry"):
        load_weights(net(), both, origin="w")
    load_weights(model, both, origin="w", entry="net")
    assert torch.equal(model[0].weight, net()[0].weight)
    for entry, words in (
        ("args", "'args' holds no state dict: argparse.Namespace is an object, which would run"),
        ("epoch", "'epoch' holds no state dict: int"),
        (
            "nothing",
            r"no entry 'nothing', and no name that begins with 'nothing\.'; it holds epoch",
        ),
    ):
        with pytest.raises(DataError, match=words):
            load_weights(net(), content, origin="w", entry=entry)


@pytest.mark.parametrize("front", ["", "model.", "lm."])
def test_tied_weights_are_stored_once(front, tmp_path, caplog):
    path = tmp_path / "model.safetensors"
    save_file({f"{front}embed.weight": Tied(1).embed.weight.detach()}, path)
    model = Tied()
    with caplog.at_level(logging.INFO, logger="saddlescope"):
        load_weights(model, load_checkpoint(tmp_path), origin="w")
    assert torch.equal(model.head.weight, Tied(1).embed.weight)
    assert model.head.weight is model.embed.weight
    assert "head.weight is tied to embed.weight" in caplog.text


class Runs:
    """An object whose unpickling would call something."""

    called: ClassVar[list[int]] = []

    def __reduce__(self):
        return Runs.called.append, (1,)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: p.write_bytes(b"GGUF" + bytes(60)), "a GGUF file"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n" + bytes(60)), "an HDF5 file"),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda p: p.write_text("<!DOCTYPE html>"), "a page of HTML"),
        (lambda p: p.write_text('{"hidden_size": 8}'), "a JSON file, which holds no tensors"),
        (lambda p: torch.save(net(), p), r"Sequential is an object, .* save model\.state_dict"),
        (lambda p: torch.save({"model": net()}, p), r"'model' was not read: .*save model\.state"),
        (lambda p: torch.save({"model": {"a": Runs()}}, p), "refused|was not read"),
        (lambda p: p.mkdir(), "a folder without weights: expected one of model.safetensors"),
    ],
)
def test_another_file_is_named_as_what_it_is(write, words, tmp_path):
    write(tmp_path / "w.pt")
    with pytest.raises(DataError, match=words):
        load_weights(net(), load_checkpoint(tmp_path / "w.pt", strict=False), origin="w.pt")
    assert Runs.called == []


def test_an_index_must_name_parts_beside_it(tmp_path):
    folder = hugging_face(tmp_path / "f")
    index = folder / "model.safetensors.index.json"
    assert load_checkpoint(index).keys() == net().state_dict().keys()
    (folder / "model-2-of-2.safetensors").unlink()
    with pytest.raises(DataError, match=r"its part model-2-of-2\.safetensors is missing"):
        load_checkpoint(folder)
    for text, words in (
        ('{"weight_map": {"a": "../w.safetensors"}}', "refused: '../w.safetensors' is not a file"),
        ('{"weight_map": 3}', "not an index of files with weights"),
        ("[", "not an index"),
        ("[" * 200_000, "not an index"),
        ('{"weight_map": {"a": "model.safetensors.index.json"}}', "is an index itself"),
        ('{"weight_map": {"a": "model-1-of-2.safetensors"}}', "a is not in model-1-of-2"),
    ):
        index.write_text(text)
        with pytest.raises(DataError, match=words):
            load_checkpoint(index)


def test_a_strict_reading_refuses_what_is_no_tensor(tmp_path):
    with pytest.raises(DataError, match="refused"):
        load_checkpoint(timm(tmp_path / "w"))
