"""`--model` and `--data` as people write them: measured right, or one line with the true cause."""

import csv
import io

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.curvature import HessianOperator
from saddlescope.curvature.reference import dense_matrix
from tests import fresh
from tests.cli.foreign import spectrum


def truth():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)).double()
    operator = HessianOperator(model, nn.CrossEntropyLoss(), [(x, torch.arange(12) % 3)])
    return np.linalg.eigvalsh(dense_matrix(operator).numpy())


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("mine:net", "mine:data", ""),
        ("mine:module", "mine:data", ""),
        ("mine:logits", "mine:data", "its 'logits' are taken"),
        ("mine:compiled", "mine:data", "measured as it was written"),
        ("mine:net", "mine:data64", "converted from float64 to float32"),
        ("mine:double", "mine:data", "converted from float32 to float64"),
        ("mine:net", "mine:Rows", ""),
        ("mine:net", "mine:loader", ""),
        ("mine:object_", "mine:loader", "returns Output; its 'logits' are taken"),
    ],
)
def test_what_simply_works(folder, model, data, said):
    done = spectrum(model, data)
    assert done.exit_code == 0, done.stderr
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    values = truth()
    assert float(row["lambda_min_lower"]) <= values[0] <= float(row["lambda_min_upper"])
    assert float(row["lambda_max_lower"]) <= values[-1] <= float(row["lambda_max_upper"])
    assert said in done.stderr


@pytest.mark.parametrize(
    ("model", "data", "code", "words"),
    [
        ("mine:pair", "mine:data", 2, "returned tuple of 2: float32 (1, 3)"),
        ("mine:scores", "mine:data", 2, "returned dict of scores: float32 (1, 3)"),
        ("mine:one", "mine:data", 2, "returned float32 (1,) for one sample: expected class scores"),
        ("mine:net", "mine:Keyed", 2, "unexpected keyword argument 'x'"),
        ("mine:regressor", "mine:values", 4, "and cross-entropy needs class numbers"),
        ("mine:net", "mine:from_one", 4, "class number 3 in the data, but --model mine:net has 3"),
        ("mine:gate", "mine:data", 1, "1 (Hardsigmoid) has no second derivative"),
        ("mine:needs", "mine:data", 2, "calling it failed: TypeError: needs() missing 1 required"),
        ("mine:fails", "mine:data", 2, "failed: KeyError: 'encoder' (mine.py, line 32)"),
        ("mine:leaves", "mine:data", 2, "failed: SystemExit: usage: train.py FILE"),
        ("mine:NUMBER", "mine:data", 2, "is a int, not a function"),
        (
            "exits:net",
            "mine:data",
            2,
            "importing exits failed: SystemExit: no GPU (exits.py, line 2",
        ),
        ("typo:net", "mine:data", 2, "NameError: name 'torhc' is not defined (typo.py, line 2)"),
        (
            "mine:net",
            "mine:missing",
            4,
            "--data mine:missing: calling it failed: FileNotFoundError",
        ),
        ("mine:net", "mine:Broken", 4, "item 5 of Broken cannot be read: ZeroDivisionError"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_one_line_with_the_true_cause(folder, model, data, code, words):
    done = spectrum(model, data)
    assert done.exit_code == code, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("saddlescope: ")]
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert done.exception is None or isinstance(done.exception, SystemExit)


def dense_ends(model, loss, x, y):
    operator = HessianOperator(model.double(), loss, [(x.double(), y)])
    values = np.linalg.eigvalsh(dense_matrix(operator).numpy())
    return values[0], values[-1]


X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("criterion", ["mine:squares", "torch.nn:MSELoss", "mine:loss"])
def test_a_criterion_of_ones_own_and_groups_of_every_kind(folder, criterion):
    words = (
        "--criterion",
        criterion,
        "--groups",
        "all,mine:positive,mine:places",
        "--rtol",
        "1e-4",
    )
    done = spectrum("mine:regressor", "mine:values", *words)
    assert done.exit_code == 0, done.stderr
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(done.stdout))}
    positive = X.sum(1) > 0
    expected = {"all": X.sum(1) < 1e9, "no": ~positive, "yes": positive,
                "first": torch.arange(12) < 4, "rest": torch.arange(12) >= 4}  # fmt: skip
    assert list(rows) == list(expected)
    torch.manual_seed(0)
    model = nn.Linear(6, 2)
    for name, chosen in expected.items():
        low, high = dense_ends(model, nn.MSELoss(), X[chosen], X[chosen][:, :2].double())
        assert rows[name]["criterion"] == criterion
        assert int(rows[name]["n"]) == chosen.sum()
        assert float(rows[name]["lambda_max"]) == pytest.approx(high, rel=1e-3)
        assert float(rows[name]["lambda_min"]) == pytest.approx(low, rel=1e-2, abs=1e-5)


def test_groups_by_a_key_of_the_batch(folder):
    done = spectrum("mine:net", "mine:domains", "--groups", "domain", "-o", "t.csv")
    assert done.exit_code == 0, done.stderr
    assert [row["name"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["a", "b"]
    again = spectrum("mine:net", "mine:domains", "--groups", "domain", "-o", "t.csv")
    assert again.stderr.count("already measured") == 2
    plan = spectrum("mine:net", "mine:domains", "--groups", "domain", "--dry-run")
    assert plan.exit_code == 0, plan.stderr
    check = CliRunner().invoke(
        app, ["check", "--model", "mine:net", "--data", "mine:domains", "--groups", "domain"]
    )
    assert check.exit_code == 0, check.output


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--data", "mine:shuffled", "--randomness", "refuse"), 1, "randomness is 'refuse'"),
        (("--data", "mine:data", "--randomness", "no"), 2, "randomness 'no': expected 'refuse'"),
        (("--data", "mine:data", "--groups", "colour"), 2, "group 'colour' is not defined"),
        (("--data", "mine:loader", "--groups", "colour"), 2, "nor a key of its samples"),
        (("--data", "mine:data", "--groups", "mine:absent"), 2, "mine has no 'absent'"),
        (("--data", "mine:data", "--criterion", "mine:NUMBER"), 2, "is a int, not a function"),
        (
            ("--data", "mine:data", "--criterion", "square"),
            2,
            "--criterion square: expected ce, training or pack",
        ),
        (("--data", "mine:data", "--criterion", "training"), 2, "known of run folders only"),
        (("--data", "mine:data", "--entry", "ema"), 2, "--entry needs --checkpoint"),
        (("--data", "mine:data", "--checkpoint", "w.pt", "--entry", "ema"), 4, "no entry 'ema'"),
        (("--data", "mine:data", "--checkpoint", "mine.py"), 4, "a text file, which holds no"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_options_that_cannot_be_meant(folder, options, code, words):
    torch.save(nn.Linear(6, 3).state_dict(), "w.pt")
    done = CliRunner().invoke(
        app, ["spectrum", "--model", "mine:net", "--classes", "none", *options]
    )
    assert done.exit_code == code, done.output
    assert words in " ".join(done.stderr.split())


def test_in_a_process_of_its_own(folder):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, "w.pt")
    words = ("--data", "mine:data", "--classes", "none", "--checkpoint", "w.pt")
    done = fresh.run("saddlescope", "spectrum", "--model", "mine:logits", *words)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert "not a checkpoint of this Wrapped: 4 missing (first: inner.0.weight)" in done.stderr
    done = fresh.run("saddlescope", "spectrum", "--model", "mine:net", *words)
    assert done.returncode == 0, done.stderr
    assert "w.pt: read the entry 'state_dict', took 'module.' (DataParallel" in done.stderr


def test_a_table_of_ones_own_network_is_reported_and_drawn(folder):
    """What `spectrum -o` wrote is read by `report` and `figure`, without a run folder."""
    views = "density,slices,plane"
    done = spectrum("mine:net", "mine:data", "--with", views, "-o", "out/s.csv")
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["report", "out/s.csv", "-o", "page.html"])
    assert done.exit_code == 0, done.output
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "mine:net" in page
    for name in ("density", "slices", "plane"):
        drawn = ["figure", name, "out/s.csv", "-o", "pictures", "--formats", "svg"]
        done = CliRunner().invoke(app, drawn)
        assert done.exit_code == 0, done.output
        svg = (folder / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
        assert svg.count("<path") > 20, name
    done = CliRunner().invoke(app, ["report", "out/absent.csv", "-o", "other.html"])
    assert done.exit_code == 4
    assert "out/absent.csv: no such folder or table" in done.output
