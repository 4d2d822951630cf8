"""`--model` and `--data` as people write them: measured right, or one line with the true cause."""

import csv
import io
import sys

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.curvature import HessianOperator
from saddlescope.curvature.reference import dense_matrix
from saddlescope.reporting import load_runs, select
from tests import fresh

SOURCE = """
import torch
from torch import nn

X, Y = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.inner, self.wrap = net(), wrap
    def forward(self, x):
        return self.wrap(self.inner(x))

def logits(): return Wrapped(lambda z: {"logits": z, "hidden": z})
def pair(): return Wrapped(lambda z: (z, z))
def scores(): return Wrapped(lambda z: {"scores": z})
def one(): return Wrapped(lambda z: z[:, 0])
def compiled(): return torch.compile(net(), backend="aot_eager")
def double(): return net().double()
def gate(): return nn.Sequential(nn.Linear(6, 4), nn.Hardsigmoid(), nn.Linear(4, 3))
def needs(width): return nn.Linear(width, 3)
def regressor():
    torch.manual_seed(0)
    return nn.Linear(6, 2)
class Output:
    def __init__(self, logits): self.logits = logits
def object_(): return Wrapped(Output)
def fails(): return {}["encoder"]
def leaves(): raise SystemExit("usage: train.py FILE")
module = net()
NUMBER = 5

def data(): return X, Y
def data64(): return X.double(), Y
def from_one(): return X, Y + 1
def missing(): return open("images.npy")
class Keyed(torch.utils.data.Dataset):
    def __len__(self): return 12
    def __getitem__(self, i): return {"x": X[i], "labels": int(Y[i])}
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 12
    def __getitem__(self, i): return X[i], int(Y[i])
def loader(): return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 5)
def shuffled(): return torch.utils.data.DataLoader(Rows(), 5, shuffle=True)
def values(): return X, X[:, :2]
def moved(): return X + 1, Y
def fewer(): return X[:9], Y[:9]
def relabelled(): return X, Y.flip(0)
class Moved(Rows):
    def __getitem__(self, i): return X[i] + 1, int(Y[i])
def moved_loader(): return torch.utils.data.DataLoader(Moved(), 5)
class Halved(nn.CrossEntropyLoss):
    def forward(self, outputs, targets): return super().forward(outputs["logits"], targets) * 0.5
class Weighted(nn.CrossEntropyLoss):
    def __init__(self): super().__init__(weight=torch.tensor([1.0, 2.0, 5.0]))
def frozen():
    network = net()
    network[0].requires_grad_(False)
    return network
def domains():
    rows = [{"input": X[i], "labels": int(Y[i]), "domain": "ab"[i % 2]} for i in range(12)]
    return torch.utils.data.DataLoader(rows, 5)
def positive(sample): return "yes" if sample[0].sum() > 0 else "no"
places = {"first": [0, 1, 2, 3], "rest": range(4, 12)}
def squares(outputs, targets): return (outputs - targets).square().mean()
def whole():
    from saddlescope import BatchLoss
    return BatchLoss(lambda model, batch: (model(batch[0]) - batch[1]).square().mean())
loss = whole()
class Broken(Rows):
    def __getitem__(self, i): return X[i], int(Y[i]) // (5 - i)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "exits.py").write_text("import sys\nsys.exit('no GPU')\n")
    (tmp_path / "typo.py").write_text("import torch\nx = torhc.ones(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mine", "exits", "typo"):
        sys.modules.pop(name, None)
    yield tmp_path
    sys.modules.pop("mine", None)


def spectrum(model, data, *options):
    arguments = ["spectrum", "--model", model, "--data", data, "--classes", "none", *options]
    return CliRunner().invoke(app, arguments)


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
