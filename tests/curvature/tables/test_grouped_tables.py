"""Tables of any batches in any grouping, each row held to the dense Hessian of its samples."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from saddlescope.curvature import (
    BatchLoss,
    CurvatureMonitor,
    HessianOperator,
    bootstrap_spectra,
    class_spectra,
    select_subsets,
)
from saddlescope.curvature.objective.samples import as_samples
from saddlescope.errors import DataError, OperatorError, UsageError
from tests.curvature.networks import dense_hessian

GENERATOR = torch.Generator().manual_seed(3)
N = 23
X = torch.randn(N, 4, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(0, 3, (N,), generator=GENERATOR)
REAL = torch.randn(N, 2, generator=GENERATOR, dtype=torch.float64)
DOMAIN = ["news" if i % 3 else "wiki" for i in range(N)]
LEVEL = torch.arange(N) % 11
CE = nn.CrossEntropyLoss()


def network(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).double().eval()


def items(**beside):
    """As Hugging Face's: mappings, with texts and numbers beside what the model takes."""
    return [
        {"input": x, "labels": int(y)} | {key: column[i] for key, column in beside.items()}
        for i, (x, y) in enumerate(zip(X, Y, strict=True))
    ]


def check(table, expected, *, model=None, loss=F.cross_entropy, targets=Y):
    """Every row against the eigenvalues of the Hessian of the mean over its positions."""
    model = network() if model is None else model
    assert table["name"].tolist() == list(expected)
    for (name, positions), (_, row) in zip(expected.items(), table.iterrows(), strict=True):
        rows = torch.tensor(positions)
        matrix = dense_hessian(model, lambda f, rows=rows: loss(f(X[rows]), targets[rows]))
        values = torch.linalg.eigvalsh(matrix)
        assert row["n"] == len(positions), name
        assert row["lambda_max"] == pytest.approx(values[-1].item(), rel=1e-6), name
        assert row["lambda_min"] == pytest.approx(values[0].item(), rel=1e-6, abs=1e-9), name


def where(test):
    return [i for i in range(N) if test(i)]


ALL = {"all": list(range(N))}
CLASSES = {str(c): where(lambda i, c=c: Y[i] == c) for c in range(3)}
DOMAINS = {name: where(lambda i, name=name: DOMAIN[i] == name) for name in ("news", "wiki")}

SOURCES = {
    "a loader": lambda: DataLoader(TensorDataset(X, Y), 5),
    "batches": lambda: list(DataLoader(TensorDataset(X, Y), 5)),
    "two batches": lambda: [(X[:9], Y[:9]), (X[9:], Y[9:])],
    "an iterator": lambda: iter(DataLoader(TensorDataset(X, Y), 5)),
    "a mapping of inputs": lambda: ({"input": X}, Y),
    "a tuple of inputs": lambda: ((X,), Y),
    "a loader of mappings": lambda: DataLoader(items(), 5),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_whatever_an_operator_takes_makes_a_table(kind):
    table = class_spectra(network(), CE, SOURCES[kind](), rtol=1e-8, batch_size=4)
    check(table, ALL | CLASSES)


def test_two_items_are_no_pair():
    two = [(X[0], 0), (X[1], 1)]
    assert len(as_samples(two).targets) == 2


@pytest.mark.parametrize(
    "source",
    [lambda data: data, lambda data: DataLoader(data, 6), lambda data: list(DataLoader(data, 6))],
)
def test_groups_by_keys_of_the_batch(source):
    data = items(domain=DOMAIN)
    table = class_spectra(
        network(), CE, DataLoader(data, 6), groups=("all", "domain"), classes=[1], rtol=1e-8
    )
    check(table, ALL | DOMAINS | {"1": CLASSES["1"]})
    both = class_spectra(
        network(), CE, source(items(domain=DOMAIN, level=LEVEL)), groups=("domain", "level"),
        classes="none", rtol=1e-8,
    )  # fmt: skip
    levels = {str(n): where(lambda i, n=n: LEVEL[i] == n) for n in range(11)}
    check(both, DOMAINS | levels)


def by_norm(sample):
    inputs = sample[0] if isinstance(sample, tuple) else sample["input"]
    return "large" if inputs.norm() > 2.0 else None


@pytest.mark.parametrize(
    "source",
    [lambda: (X, Y), lambda: DataLoader(TensorDataset(X, Y), 5), items],
)
def test_groups_by_a_function_of_a_sample(source):
    expected = {"large": where(lambda i: X[i].norm() > 2.0)}
    assert 0 < len(expected["large"]) < N
    table = class_spectra(network(), CE, source(), groups=by_norm, classes="none", rtol=1e-8)
    check(table, expected)


@pytest.mark.parametrize("source", [lambda: (X, Y), lambda: DataLoader(TensorDataset(X, Y), 5)])
def test_groups_by_positions(source):
    groups = {"short": [4, 0, 7], "long": range(8, N), "mask": Y == 2}
    table = class_spectra(network(), CE, source(), groups=groups, classes="none", rtol=1e-8)
    check(table, {"short": [0, 4, 7], "long": list(range(8, N)), "mask": CLASSES["2"]})


@pytest.mark.parametrize(
    "source",
    [
        lambda: (X, REAL),
        lambda: TensorDataset(X, REAL),
        lambda: list(zip(X, REAL, strict=True)),
        lambda: DataLoader(TensorDataset(X, REAL), 5),
    ],
)
def test_regression(source):
    groups = ("all", lambda sample: int(sample[1].reshape(-1)[0] > 0))
    model, loss = network(2), nn.MSELoss()
    table = class_spectra(model, loss, source(), groups=groups, classes="none", rtol=1e-8)
    signs = {str(s): where(lambda i, s=s: (REAL[i, 0] > 0) == bool(s)) for s in range(2)}
    check(table, ALL | signs, model=model, loss=F.mse_loss, targets=REAL)
    with pytest.raises(DataError, match=r"class numbers must be integers.*classes 'none'"):
        class_spectra(model, loss, source())


def test_targets_that_happen_to_be_whole_numbers_keep_their_shape():
    ages = torch.arange(N, dtype=torch.float64)[:, None]
    table = class_spectra(
        network(1), nn.MSELoss(), list(zip(X, ages, strict=True)), classes="none", rtol=1e-9
    )
    every = {"all": list(range(N))}
    check(table, every, model=network(1), loss=F.mse_loss, targets=ages)
    assert not any("halves" in note for notes in table.attrs["notes"].values() for note in notes)


def test_batches_of_any_kind_under_a_loss_of_ones_own():
    """Ragged ones too, whose tensors cannot be joined; the loss says what a batch weighs."""
    batches = [
        {"x": X[:10], "mask": torch.ones(10, 2), "domain": DOMAIN[:10]},
        {"x": X[10:], "mask": torch.ones(N - 10, 3), "domain": DOMAIN[10:]},
    ]
    loss = BatchLoss(lambda model, batch: model(batch["x"]).square().mean())
    table = class_spectra(
        network(), loss, batches, groups=("all", "domain"), classes="none", rtol=1e-8, batch_size=4
    )
    check(table, ALL | DOMAINS, loss=lambda outputs, _: outputs.square().mean())
    items = [{"x": x, "n": torch.tensor(1.0)} for x in X]
    table = class_spectra(network(), loss, items, classes="none", rtol=1e-8)
    check(table, ALL, loss=lambda outputs, _: outputs.square().mean())


def test_the_monitor_takes_the_same():
    monitor = CurvatureMonitor(CE, DataLoader(items(domain=DOMAIN), 5), groups="domain", rtol=1e-8)
    monitor(network(), 0)
    check(monitor.frame(), DOMAINS)


@pytest.mark.parametrize("classes", ["3", "0,3", "foo", [2.7], ["a"], 3, None], ids=str)
def test_classes_that_are_no_numbers_are_refused(classes):
    with pytest.raises(UsageError, match="expected 'all', 'none', or class numbers"):
        class_spectra(network(), CE, (X, Y), classes=classes)


@pytest.mark.parametrize("classes", [[2, 0, 2], torch.tensor([2, 0])], ids=["list", "tensor"])
def test_class_numbers_of_any_kind_give_a_row_each(classes):
    subsets = select_subsets(as_samples((X, Y)), classes=classes, groups=())
    assert [subset.name for subset in subsets] == ["2", "0"]


def test_a_bootstrap_of_a_group_draws_from_it_alone():
    data = as_samples((X, REAL))
    (subset,) = select_subsets(data, classes="none", groups={"few": [3]})
    with pytest.raises(UsageError, match="'few' has 1 sample,"):
        bootstrap_spectra(network(2), nn.MSELoss(), data, subset)
    (subset,) = select_subsets(data, classes="none", groups={"same": [3, 5]})
    row = bootstrap_spectra(network(2), nn.MSELoss(), data, subset, resamples=19, rtol=1e-8)
    model, values = network(2), []
    for rows in ([3, 3], [3, 5], [5, 5]):
        matrix = dense_hessian(model, lambda f, r=rows: F.mse_loss(f(X[r]), REAL[r]))
        values.append(torch.linalg.eigvalsh(matrix)[-1].item())
    assert all(min(abs(d - v) for v in values) < 1e-6 * abs(d) for d in row.draws[:, 0])


@pytest.mark.parametrize(
    ("groups", "kind", "words"),
    [
        ("colour", UsageError, r"group 'colour' is neither defined .* nor a key .*input, labels"),
        ({"a": [0, N]}, DataError, f"group 'a': there is no sample {N}: the data have {N}"),
        ({"a": [-1]}, DataError, "there is no sample -1"),
        ({"a": [1, 1]}, UsageError, "group 'a' names a sample twice"),
        ({"a": []}, DataError, "group 'a' has no samples"),
        ({"a": [0.5]}, UsageError, "expected positions of samples"),
        (("all", {"all": [1]}), UsageError, "two groups are called 'all'"),
        (lambda _: 0.5, UsageError, "gave a float for a sample"),
        (lambda item: item["no"], UsageError, "failed on a sample: KeyError: 'no'"),
    ],
)
def test_groups_that_are_none(groups, kind, words):
    data = DataLoader(items(domain=DOMAIN), 6)
    with pytest.raises(kind, match=words):
        class_spectra(network(), CE, data, groups=groups, classes="none")


def test_positions_need_data_in_one_order():
    shuffled = DataLoader(TensorDataset(X, Y), 5, shuffle=True)
    with pytest.raises(UsageError, match="groups by position need data in one order"):
        class_spectra(network(), CE, shuffled, groups={"a": [0]}, classes="none")


class TestRandomness:
    """Data that are others when read again: one draw with a note, or an error."""

    SHUFFLED = staticmethod(lambda: DataLoader(TensorDataset(X, Y), 5, shuffle=True))

    def test_frozen_is_measured_with_a_note(self):
        table = class_spectra(network(), CE, self.SHUFFLED(), classes=[1], rtol=1e-8)
        check(table, ALL | {"1": CLASSES["1"]})
        assert all("one draw" in notes[0] for notes in table.attrs["notes"].values())

    @pytest.mark.parametrize("make", [SHUFFLED, lambda: iter([(X, Y)])])
    def test_refused(self, make):
        with pytest.raises(OperatorError, match="randomness is 'refuse'"):
            HessianOperator(network(), CE, make(), randomness="refuse").verify()
        with pytest.raises(OperatorError, match="randomness is 'refuse'"):
            class_spectra(network(), CE, make(), classes="none", randomness="refuse")

    def test_what_does_not_change_is_said_to(self):
        data = DataLoader(TensorDataset(X, Y), 5)
        table = class_spectra(network(), CE, data, classes="none", randomness="refuse")
        assert "the data were the same when read again" in table.attrs["notes"]["group all"][0]

    def test_an_unknown_word(self):
        with pytest.raises(UsageError, match="randomness 'allow': expected 'refuse' or 'frozen'"):
            HessianOperator(network(), CE, [(X, Y)], randomness="allow")


@pytest.mark.parametrize("size", [1, 4, 5, 7, 100])
def test_batches_are_cut_anew_without_changing_the_matrix(size):
    given = [(X[:3], Y[:3]), (X[3:4], Y[3:4]), (X[4:], Y[4:])]
    whole = HessianOperator(network(), CE, [(X, Y)])
    operator = HessianOperator(network(), CE, iter(given), batch_size=size)
    sizes = [batch.count for batch in operator.objective.batches()]
    assert max(sizes) <= size
    assert size < 4 or len(sizes) < N / size + 3
    vector = torch.randn(operator.size, generator=GENERATOR, dtype=torch.float64)
    torch.testing.assert_close(operator.matvec(vector), whole.matvec(vector))


def test_what_cannot_be_divided_is_refused_by_its_number():
    ragged = [(X, Y), ((X, torch.zeros(2)), Y)]
    with pytest.raises(DataError, match="batch 2 of the data cannot be divided into its 23"):
        HessianOperator(network(), CE, ragged, batch_size=4)
    with pytest.raises(UsageError, match="batch_size = 0"):
        HessianOperator(network(), CE, [(X, Y)], batch_size=0)
