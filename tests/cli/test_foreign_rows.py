"""Rows of networks from elsewhere: given again where they are what is asked for."""

import csv
import sys

import pytest
import torch
from torch import nn

from saddlescope.reporting import load_runs, select
from tests.cli.foreign import SOURCE, spectrum


def rows(name):
    with open(name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("data", ["moved", "fewer", "relabelled", "Moved", "moved_loader"])
def test_rows_of_other_data_are_not_taken_for_those_asked_for(folder, data):
    assert spectrum("mine:net", "mine:data", "-o", "t.csv").exit_code == 0
    before = (folder / "t.csv").read_bytes()
    done = spectrum("mine:net", f"mine:{data}", "-o", "t.csv", "--with", "density")
    assert done.exit_code == 2
    assert "t.csv: holds rows of the same network on other data" in done.stderr
    assert (folder / "t.csv").read_bytes() == before
    assert not (folder / "t.views").exists()
    # Under another split they stand beside each other.
    done = spectrum("mine:net", f"mine:{data}", "-o", "t.csv", "--split", "test")
    assert done.exit_code == 0, done.output
    assert [row["split"] for row in rows("t.csv")] == ["train", "test"]
    assert len({row["lambda_max"] for row in rows("t.csv")}) == 2


@pytest.mark.parametrize(
    ("model", "data"),
    [("net", "data"), ("logits", "Keyed"), ("net", "Rows"), ("net", "loader"), ("net", "shuffled")],
)
def test_rows_of_the_same_data_are_there(folder, model, data):
    for _ in range(2):
        done = spectrum(f"mine:{model}", f"mine:{data}", "-o", "t.csv", "--with", "density")
        assert done.exit_code == 0, done.output
    assert "already measured" in done.stderr
    assert len(rows("t.csv")) == 1


def test_another_network_of_the_same_weights_has_rows_of_its_own(folder):
    for model in ("net", "frozen"):
        assert spectrum(f"mine:{model}", "mine:data", "-o", "t.csv").exit_code == 0
    one, two = rows("t.csv")
    assert (one["run"], two["run"]) == ("mine:net", "mine:frozen")
    assert float(one["lambda_max"]) > 1.1 * float(two["lambda_max"])


def test_a_network_that_was_changed_under_its_name_is_measured_anew(folder):
    """Tanh became ReLU in the file: the weights are the same, and the loss is another."""
    assert spectrum("mine:net", "mine:data", "-o", "t.csv").exit_code == 0
    before = rows("t.csv")
    (folder / "mine.py").write_text(SOURCE.replace("nn.Tanh()", "nn.ReLU()"))
    sys.modules.pop("mine")
    done = spectrum("mine:net", "mine:data", "-o", "t.csv")
    assert done.exit_code == 0, done.output
    (after,) = rows("t.csv")
    assert after["lambda_max"] != before[0]["lambda_max"]


@pytest.mark.parametrize("criterion", ["ce", "mine:Halved"])
def test_rows_of_code_that_was_edited_are_not_taken_for_those_asked_for(folder, criterion):
    """Weights, layers and samples are the same: only the loss tells that a `forward` is not."""
    words = ("mine:logits", "mine:data", "--criterion", criterion, "--groups", "all", "--classes")
    assert spectrum(*words, "0,1", "-o", "t.csv").exit_code == 0
    before = (folder / "t.csv").read_bytes()
    edits = {"ce": ('"logits": z,', '"logits": 1.1 * z,'), "mine:Halved": ("* 0.5", "* 0.6")}
    (folder / "mine.py").write_text(SOURCE.replace(*edits[criterion]))
    sys.modules.pop("mine")
    done = spectrum(*words, "0-2", "-o", "t.csv")
    assert done.exit_code == 2
    assert "t.csv: class 0 has a loss of" in done.stderr
    assert "name another file with -o" in done.stderr
    assert (folder / "t.csv").read_bytes() == before
    (folder / "mine.py").write_text(SOURCE)
    sys.modules.pop("mine")
    done = spectrum(*words, "0-2", "-o", "t.csv")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("already measured") == 3


def test_checkpoints_of_one_network_are_two_in_a_report(folder):
    for seed, name in ((1, "a"), (2, "b")):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        torch.save(net.state_dict(), f"{name}.pt")
        options = ("--checkpoint", f"{name}.pt", "-o", f"{name}.csv")
        assert spectrum("mine:net", "mine:data", *options).exit_code == 0
    runs, problems = load_runs(["a.csv", "b.csv"])
    assert not problems
    assert [run.name for run in runs] == ["mine:net (a.pt)", "mine:net (b.pt)"]
    assert [len(run.spectra) for run in runs] == [1, 1]
    assert len(set(select(runs).labels)) == 2
    (alone,) = load_runs(["a.csv"])[0]
    assert alone.name == "mine:net"


def test_a_criterion_with_other_weights_has_rows_of_its_own(folder):
    """Rows of several criteria stand beside each other, and none is taken for another's."""
    found = []
    for weights in ("[1.0, 2.0, 5.0]", "[5.0, 2.0, 1.0]"):
        (folder / "mine.py").write_text(SOURCE.replace("[1.0, 2.0, 5.0]", weights))
        sys.modules.pop("mine", None)
        for criterion in ("ce", "mine:Weighted"):
            done = spectrum("mine:net", "mine:data", "--criterion", criterion, "-o", "t.csv")
            assert done.exit_code == 0, done.output
        found = rows("t.csv")
    assert len(found) == 3  # ce once
    assert len({row["criterion"] for row in found}) == 3
    assert len({row["lambda_max"] for row in found}) == 3
