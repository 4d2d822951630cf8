"""A checkpoint is what was written, or a line that says so; a hostile one is refused unread."""

import io
import pickle
import random
import struct
import tracemalloc
import zipfile

import pytest
import torch

from saddlescope.errors import DataError, Interrupted
from saddlescope.runs import RunFolder
from saddlescope.training import RunOptions, load_checkpoint, packaged_recipe, train
from saddlescope.training.checkpoints import load_weights, save_checkpoint
from saddlescope.training.restore import load_section, restore_run

CONTENT = {
    "model": {"w": torch.arange(700.0).reshape(7, 100), "n": torch.tensor(3)},
    "half": torch.ones(3, dtype=torch.bfloat16), "empty": torch.zeros(0), "flags": [True, None],
    "epoch": 3, "best": 0.5, "name": "λ", "nested": {"a": ({"b": 1},)}, "nan": float("nan"),
}  # fmt: skip


def same(one, two):
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two or one != one


def test_a_bit_that_has_changed_is_noticed(tmp_path):
    """Whatever loads after a flip is what was written: torch alone takes other weights."""
    path = tmp_path / "c.pt"
    save_checkpoint(path, CONTENT)
    assert same(load_checkpoint(path), CONTENT)
    clean, unnoticed = path.read_bytes(), 0
    generator = random.Random(0)
    for _ in range(400):
        damaged = bytearray(clean)
        damaged[generator.randrange(len(clean))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            unnoticed += not same(load_checkpoint(path), CONTENT)
        except DataError:
            continue
    assert unnoticed == 0
    path.write_bytes(clean[:3000] + bytes(400) + clean[3400:])
    with pytest.raises(DataError, match=r"does not match its checksum|not readable"):
        load_checkpoint(path)


def test_a_checkpoint_without_a_checksum_is_taken_as_it_is(tmp_path):
    torch.save(CONTENT, tmp_path / "c.pt")
    assert same(load_checkpoint(tmp_path / "c.pt"), CONTENT)
    torch.save(CONTENT, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(load_checkpoint(tmp_path / "old.pt"), CONTENT)


def archive(path, pickled, *, compress=False):
    buffer = io.BytesIO()
    torch.save({"model": torch.zeros(2)}, buffer)
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", kind) as target:
        for entry in source.infolist():
            content = pickled if entry.filename.endswith("data.pkl") else source.read(entry)
            if compress and "/data/" in entry.filename:
                content = bytes(10_000_000)
            target.writestr(entry.filename, content)


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


DEEP = b"\x80\x02}X\x05\x00\x00\x00model)" + b"\x85" * 300_000 + b"s."


@pytest.mark.parametrize(
    ("pickled", "why"),
    [
        (DEEP, "nested more than 100 levels"),
        (b"\x80\x02}Na" + b"]" * 300_000 + b"a" * 299_999 + b"s.", "nested|takes what"),
        (b"\x80\x02}" + b")" + b"\x85" * 300_000 + b"Ns.", "nested more than"),
        (pickle.dumps({"a": Calls(bytearray, 10**10)}, 2), "it calls 'builtins.bytearray'"),
        (pickle.dumps({"a": Calls(torch.FloatStorage, 10**10)}, 2), "FloatStorage"),
        (b"\x80\x02}R.", "takes what is not there"),
        (b"\x80\x02.", "takes what is not there"),
    ],
)
def test_hostile_checkpoints_are_refused_before_they_are_read(tmp_path, pickled, why):
    archive(tmp_path / "c.pt", pickled.replace(b"c__builtin__", b"cbuiltins"))
    with pytest.raises(DataError, match=why):
        load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("spread", [False, True])
def test_a_file_of_objects_without_end_is_refused_before_they_are_made(
    tmp_path, monkeypatch, spread
):
    """One byte may stand for an object of two hundred; before torch 1.6 in five pickles."""
    monkeypatch.setattr("saddlescope.training.sealing._MOST_OPCODES", 5000)
    objects = b"\x80\x02}N](" + b"}" * (1500 if spread else 5000) + b"es."
    archive(tmp_path / "c.pt", objects)
    if spread:
        (tmp_path / "c.pt").write_bytes(objects * 5)
    with pytest.raises(DataError, match="more objects than a checkpoint has"):
        load_checkpoint(tmp_path / "c.pt")


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path):
    archive(tmp_path / "c.pt", pickle.dumps({}, 2), compress=True)
    with pytest.raises(DataError, match="compressed to a fraction"):
        load_checkpoint(tmp_path / "c.pt")


def test_an_archive_that_lies_about_its_size_is_read_no_further_than_it_says(tmp_path):
    path, size = tmp_path / "c.pt", 40_000_000
    archive(path, bytes(size), compress=True)
    content = path.read_bytes().replace(bytes(10_000_000), b"")
    path.write_bytes(content.replace(struct.pack("<I", size), struct.pack("<I", 100)))
    with zipfile.ZipFile(path) as there, zipfile.ZipFile(tmp_path / "d.pt", "w") as target:
        assert next(e for e in there.infolist() if e.filename.endswith("data.pkl")).file_size == 100
        target.writestr("x", "")
    tracemalloc.start()
    with pytest.raises(DataError):
        load_checkpoint(path)
    assert tracemalloc.get_traced_memory()[1] < size // 2
    tracemalloc.stop()


def test_tensors_that_repeat_what_is_in_the_file_are_refused(tmp_path):
    """One number that stands for gigabytes: its checksum alone would fill the memory."""
    path, seal = tmp_path / "c.pt", {"saddlescope_checksum": "x"}
    for tensor in (torch.zeros(1).expand(1 << 33), torch.zeros(1).expand(1 << 20)):
        for content in ({"model": {"a": tensor}} | seal, {"state": [(tensor,)]}):
            torch.save(content, path)
            with pytest.raises(DataError, match="many times as large as the file"):
                load_checkpoint(path)
    tied = torch.arange(1000.0)
    torch.save({"model": {"a": tied, "b": tied, "c": tied[None]}}, path)
    assert torch.equal(load_checkpoint(path)["model"]["b"], tied)


def test_content_that_holds_itself_is_refused(tmp_path):
    content = {"saddlescope_checksum": "x", "list": []}
    content["list"].append(content["list"])
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(DataError, match="holds itself"):
        load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({}, "2 missing"),
        ({"weight": 1.0, "bias": torch.zeros(2)}, "'weight' is a float"),
        ({3: torch.zeros(2)}, "'3' is a Tensor"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "x": torch.zeros(1)}, "1 unknown"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, r"\(3, 2\) in the file"),
        ({"weight": torch.zeros(2, 3).cfloat(), "bias": torch.zeros(2)}, "complex"),
        ({"weight": torch.zeros(2, 3, device="meta"), "bias": torch.zeros(2)}, "weights: "),
    ],
)
def test_weights_of_something_else_are_refused(state, why):
    with pytest.raises(DataError, match=why):
        load_weights(torch.nn.Linear(3, 2), {"model": state}, origin="weights")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that has been stopped in the middle of its second epoch."""
    folder, taken = RunFolder(tmp_path_factory.mktemp("stopped") / "run"), []
    recipe = packaged_recipe("digits-lt", overrides=["training.epochs=3"])
    with pytest.raises(Interrupted):
        train(
            recipe,
            load_section(recipe.data),
            folder,
            RunOptions(should_stop=lambda: len(taken) == 20 or taken.append(1)),
        )
    return recipe, folder


WRONG = {
    "epoch": ("x", -1, 10**9, True, 1.5, None, [1]),
    "position": (-1, 10**9, "0"),
    "best": ("x", None, [1]),
    "seconds": ("x", {}),
    "steps": ({}, None, [], {"sums": 1, "counts": 2, "augmentation": 3}, {"sums": torch.zeros(5)}),
    "optimizer": ({}, None, {"base": {}, "radii": {}}, {"base": {"state": 1, "param_groups": []}}),
    "rng": (None, torch.zeros(3), "x", torch.zeros(5056)),
}


@pytest.mark.parametrize(("entry", "value"), [(k, v) for k in WRONG for v in (*WRONG[k], KeyError)])
def test_entries_of_a_checkpoint_that_are_no_state(stopped, entry, value):
    recipe, folder = stopped
    clean = folder.checkpoint("last").read_bytes()
    content = load_checkpoint(folder.checkpoint("last")) | {entry: value}
    if value is KeyError:
        del content[entry]
    save_checkpoint(folder.checkpoint("last"), content)
    try:
        with pytest.raises(DataError, match=r"last\.pt: not the state of"):
            train(recipe, load_section(recipe.data), folder, RunOptions(resume=True))
        if entry == "epoch" and value is not KeyError:
            with pytest.raises(DataError, match=r"last\.pt: not the state of"):
                restore_run(folder)
    finally:
        folder.checkpoint("last").write_bytes(clean)


def test_momenta_of_another_network_are_refused(stopped):
    recipe, folder = stopped
    clean = folder.checkpoint("last").read_bytes()
    content = load_checkpoint(folder.checkpoint("last"))
    first = next(iter(content["optimizer"]["state"].values()))
    first["momentum_buffer"] = torch.zeros(1)
    save_checkpoint(folder.checkpoint("last"), content)
    try:
        with pytest.raises(DataError, match="a momentum is"):
            train(recipe, load_section(recipe.data), folder, RunOptions(resume=True))
    finally:
        folder.checkpoint("last").write_bytes(clean)
