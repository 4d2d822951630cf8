"""An operator is one matrix: of fixed samples, of one function, at the weights of its building.

The truth is the dense Hessian in float64, by plain double backward. The sources, losses and layers
are those that public reports tell of.
"""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from saddlescope.curvature import (
    BatchLoss,
    HessianOperator,
    class_spectra,
    extreme_eigenvalues,
    iter_spectra,
    trace,
)
from saddlescope.curvature.objective.samples import as_samples
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import DataError, OperatorError
from tests.curvature.networks import dense_hessian

CRITERION = nn.CrossEntropyLoss()


def data(n=24, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 6, generator=generator).double()
    return inputs * torch.linspace(0.3, 3, n).double()[:, None], torch.arange(n) % 3


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype).eval()


def truth_of(model, x, y):
    return dense_hessian(model, lambda f: F.cross_entropy(f(x), y))


class Noisy(Dataset):
    """Augmentation by whichever random numbers."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return 24

    def __getitem__(self, index):
        x, y = data()
        return x[index] + self.draw(), int(y[index])


DRAWS = {
    "torch": lambda: torch.randn(6).double(),
    "numpy": lambda: torch.as_tensor(np.random.standard_normal(6)),  # noqa: NPY002
    "random": random.random,
}


class TestSources:
    @pytest.mark.parametrize("generator", [None, 5])
    @pytest.mark.parametrize("budget", [None, 4000])
    def test_a_shuffled_loader_is_the_matrix_of_its_samples(self, generator, budget):
        x, y = data()
        own = None if generator is None else torch.Generator().manual_seed(generator)
        loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True, generator=own)
        model = network()
        operator = HessianOperator(model, CRITERION, loader, memory_budget=budget)
        torch.rand(1)  # whoever uses the generator in between
        assert budget is None or operator.retained < 1.0
        torch.testing.assert_close(dense_matrix(operator), truth_of(model, x, y))
        ends = extreme_eigenvalues(operator)
        assert any("another order" in note for note in ends.notes)

    def test_what_drops_the_last_batch_is_frozen_to_one_draw(self):
        x, y = data()
        loader = DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True, drop_last=True)
        operator = HessianOperator(network(), CRITERION, loader)
        assert operator.objective.n == 21
        first = dense_matrix(operator)
        torch.rand(3)
        assert torch.equal(first, dense_matrix(operator))

    @pytest.mark.parametrize("draw", DRAWS)
    def test_augmentation_is_one_draw_and_leaves_the_random_states(self, draw):
        loader, model = DataLoader(Noisy(DRAWS[draw]), batch_size=10), network()
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
        operator = HessianOperator(model, CRITERION, loader)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002
        kept = list(operator.objective.source)
        truth = truth_of(model, *(torch.cat(p) for p in zip(*kept, strict=True)))
        torch.testing.assert_close(dense_matrix(operator), truth)
        assert any("one draw" in note for note in extreme_eigenvalues(operator).notes)

    def test_a_source_that_does_not_fit_is_read_anew_from_the_same_random_state(self):
        loader = DataLoader(Noisy(DRAWS["torch"]), batch_size=10)
        operator = HessianOperator(network(), CRITERION, loader, memory_budget=0)
        vector = torch.ones(operator.size).double()
        torch.rand(4)
        assert torch.equal(operator.matvec(vector), operator.matvec(vector))
        assert any("one draw" in note for note in extreme_eigenvalues(operator).notes)

    def test_a_source_that_changes_and_does_not_fit_is_refused(self):
        x, y = data()
        own = torch.Generator().manual_seed(0)
        loader = DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True, generator=own)
        with pytest.raises(OperatorError, match="batch 1 of the data is not what it was"):
            HessianOperator(network(), CRITERION, loader, memory_budget=0)

    def test_a_source_that_ends_earlier_is_refused(self):
        x, y = data()
        passes = iter((4, 4, 3))

        class Shrinking:
            def __iter__(self):
                for k in range(next(passes)):
                    yield x[6 * k : 6 * k + 6], y[6 * k : 6 * k + 6]

        with pytest.raises(OperatorError, match="4 batches at the first reading and 3 now"):
            HessianOperator(network(), CRITERION, Shrinking(), memory_budget=0)

    def test_a_plain_loader_has_no_note(self):
        loader = DataLoader(TensorDataset(*data()), batch_size=5)
        assert extreme_eigenvalues(HessianOperator(network(), CRITERION, loader)).notes == ()

    def test_all_rows_of_an_augmenting_data_set_see_one_draw(self, caplog):
        torch.manual_seed(3)
        samples = as_samples(Noisy(DRAWS["torch"]))
        assert "one draw" in caplog.text
        model, every = network(), torch.arange(24)
        table = class_spectra(model, CRITERION, samples, classes=[0, 1, 2])
        x, y = samples.inputs(every), samples.targets
        for row in table.to_dict("records"):
            some = every if row["name"] == "all" else every[y == int(row["name"])]
            truth = torch.linalg.eigvalsh(truth_of(model, x[some], y[some]))
            assert row["lambda_max_lower"] <= truth[-1] <= row["lambda_max_upper"]
        assert all("one draw" in notes[0] for notes in table.attrs["notes"].values())


class Random(nn.Module):
    def __init__(self, noise):
        super().__init__()
        self.a, self.b, self.noise = nn.Linear(6, 8), nn.Linear(8, 3), noise

    def forward(self, x):
        return self.b(self.noise(self.a(x)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "noise", [lambda h: F.dropout(torch.tanh(h), 0.5), F.gumbel_softmax], ids=["dropout", "gumbel"]
)
def test_noise_in_the_forward_pass_is_found_whatever_the_random_state(noise, seed):
    torch.manual_seed(0)
    model = Random(noise).eval()
    torch.manual_seed(seed)
    x, y = data()
    operator = HessianOperator(model, CRITERION, [(x.float(), y)])
    with pytest.raises(OperatorError, match="draws random numbers before it calls b"):
        extreme_eigenvalues(operator)


def test_buffers_that_move_are_refused_and_left_as_they_were():
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)), nn.Tanh())
    model.append(nn.Linear(5, 3)).double().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(OperatorError, match=r"_u changes with every call|halves"):
        extreme_eigenvalues(HessianOperator(model, CRITERION, [data()]))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    x, y = data()
    operator = HessianOperator(model.eval(), CRITERION, [(x, y)])
    torch.testing.assert_close(dense_matrix(operator), truth_of(model, x, y))
    operator.verify()


class TestAdditivity:
    @pytest.mark.parametrize("sizes", [(24,), (10, 14)])
    def test_batch_norm_without_statistics_is_named(self, sizes):
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(5, track_running_stats=False)
        model = nn.Sequential(nn.Linear(6, 5), norm, nn.Tanh(), nn.Linear(5, 3)).double().eval()
        batches = list(zip(*(part.split(list(sizes)) for part in data()), strict=True))
        with pytest.raises(OperatorError, match=r"1 \(BatchNorm1d\).*track_running_stats"):
            extreme_eigenvalues(HessianOperator(model, CRITERION, batches))

    def test_tokens_that_are_not_counted(self):
        torch.manual_seed(0)
        model = nn.Embedding(7, 4).double().eval()
        ids = torch.randint(0, 7, (8, 5))
        labels = ids % 4
        labels[:3, 1:] = -100
        batches = [(ids[:4], labels[:4]), (ids[4:], labels[4:])]

        def loss(outputs, targets):
            return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

        with pytest.raises(OperatorError, match=r"would have to enter with .*weight=lambda"):
            extreme_eigenvalues(HessianOperator(model, loss, batches))
        weight = BatchLoss(lambda m, b: loss(m(b[0]), b[1]), weight=lambda b: (b[1] != -100).sum())
        operator = HessianOperator(model, weight, batches)
        truth = dense_hessian(model, lambda f: loss(f(ids), labels))
        torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-9, atol=1e-12)
        extreme_eigenvalues(operator)
        wrong = BatchLoss(lambda m, b: loss(m(b[0]), b[1]))
        with pytest.raises(OperatorError, match="would have to enter"):
            extreme_eigenvalues(HessianOperator(model, wrong, batches))

    def test_one_batch_of_a_loss_that_is_no_mean_is_itself(self):
        x, y = data()[0], torch.arange(24) // 8
        model, weight = network(), torch.tensor([0.2, 1.0, 3.0]).double()

        def loss(outputs, targets):
            return F.cross_entropy(outputs, targets, weight=weight)

        operator = HessianOperator(model, loss, [(x, y)])
        ends = extreme_eigenvalues(operator)
        truth = torch.linalg.eigvalsh(dense_hessian(model, lambda f: loss(f(x), y)))
        assert ends.lambda_max.lower <= truth[-1] <= ends.lambda_max.upper
        assert "as one batch" in ends.notes[0]
        with pytest.raises(OperatorError, match="weighted mean"):
            extreme_eigenvalues(HessianOperator(model, loss, [(x[:11], y[:11]), (x[11:], y[11:])]))

    def test_weights_and_ignored_targets_of_torch_add_up(self):
        x, y = data()
        y = torch.where(torch.arange(24) % 5 == 0, -100, y)
        criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0]).double())
        operator = HessianOperator(network(), criterion, [(x[:9], y[:9]), (x[9:], y[9:])])
        assert extreme_eigenvalues(operator).notes == ()


KINDS = {
    "tuple": (lambda y, v: (y, v), lambda t: t),
    "list": (lambda y, v: [y, v], lambda t: t),
    "dict": (lambda y, v: {"class": y, "value": v}, lambda t: (t["class"], t["value"])),
    "items": (
        lambda y, v: [{"class": a, "value": b} for a, b in zip(y, v, strict=True)],
        lambda t: [torch.stack([item[key] for item in t]) for key in ("class", "value")],
    ),
}


class TestStructuredTargets:
    @pytest.mark.parametrize("kind", KINDS)
    def test_several_targets_a_sample(self, kind):
        x, y = data()
        v = x[:, 0].clone()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double().eval()
        pack, unpack = KINDS[kind]

        def loss(outputs, targets):
            classes, values = unpack(targets)
            return F.cross_entropy(outputs[:, :3], classes) + F.mse_loss(outputs[:, 3], values)

        batches = [(x[:3], pack(y[:3], v[:3])), (x[3:], pack(y[3:], v[3:]))]
        operator = HessianOperator(model, loss, batches)
        assert operator.objective.n == 24
        truth = dense_hessian(model, lambda f: loss(f(x), pack(y, v)))
        torch.testing.assert_close(dense_matrix(operator), truth)
        assert extreme_eigenvalues(operator).notes == ()

    def test_ragged_targets(self):
        x, _ = data(6)
        model = nn.Linear(6, 1).double().eval()
        ragged = [torch.arange(1.0, k + 2).double() for k in range(6)]

        def loss(outputs, targets):
            return torch.stack(
                [(o - t).square().sum() for o, t in zip(outputs, targets, strict=True)]
            ).mean()

        operator = HessianOperator(model, loss, [(x[:2], ragged[:2]), (x[2:], ragged[2:])])
        assert operator.objective.n == 6
        truth = dense_hessian(model, lambda f: loss(f(x), ragged))
        torch.testing.assert_close(dense_matrix(operator), truth)
        extreme_eigenvalues(operator)

    def test_no_targets(self):
        x, _ = data()
        model = nn.Linear(6, 6).double().eval()
        operator = HessianOperator(
            model, lambda z, _: z.square().mean(), [(x[:5], None), (x[5:], None)]
        )
        assert operator.objective.n == 24
        truth = dense_hessian(model, lambda f: f(x).square().mean())
        torch.testing.assert_close(dense_matrix(operator), truth)

    def test_a_count_that_cannot_be_told_is_asked_for(self):
        x, y = data()
        with pytest.raises(DataError, match=r"how many samples.*24 rows.*2 or 12.*weight=lambda"):
            HessianOperator(network(), lambda z, t: z.sum(), [(x, (y[:12], y[:12]))])


def _step(model):
    with torch.no_grad():
        model[0].weight += 0.1


def _data(model):
    model[0].weight.data = model[0].weight.data + 0.5


def _load(model):
    model.load_state_dict({k: v + 0.1 for k, v in model.state_dict().items()}, assign=True)


def _replace(model):
    model[0].bias = nn.Parameter(torch.ones(8).double())


def _buffer(model):
    model[1].running_var.mul_(4)


class TestChanges:
    @pytest.mark.parametrize(
        ("change", "name"),
        [
            (_step, "0.weight"),
            (_data, "0.weight"),
            (_load, "0.weight"),
            (_replace, "0.bias"),
            (_buffer, "1.running_var"),
        ],
    )
    @pytest.mark.parametrize(
        "use",
        [extreme_eigenvalues, trace, lambda H: H.matvec(torch.ones(H.size).double())],
        ids=["ends", "trace", "matvec"],
    )
    def test_the_tensor_that_changed_is_named(self, change, name, use):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
        operator = HessianOperator(model.double().eval(), CRITERION, [data()])
        change(model)
        with pytest.raises(OperatorError, match=rf"^{name} changed after the operator was built"):
            use(operator)

    def test_a_step_there_and_back_changes_nothing(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
        operator = HessianOperator(model, CRITERION, [data()])
        ones = torch.ones(operator.size).double()
        expected = operator.matvec(ones)
        kept = [parameter.detach().clone() for parameter in model.parameters()]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1)
            for parameter, before in zip(model.parameters(), kept, strict=True):
                parameter.copy_(before)
        assert torch.equal(operator.matvec(ones), expected)
        with torch.no_grad():  # the same numbers in another order are other weights
            model[0].weight.copy_(kept[0].flip(0))
        with pytest.raises(OperatorError, match=r"^0\.weight changed after"):
            operator.matvec(ones)

    def test_a_forward_pass_in_between_changes_nothing(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double().eval()
        operator = HessianOperator(model, CRITERION, [data()])
        model(data()[0]).sum().backward()
        model.train().eval()
        operator.matvec(torch.ones(operator.size).double())


def fitted(gap):
    """A network whose class 0 is fitted with such a gap between the logits."""
    x, y = data(40)
    x[y == 0] = torch.tensor([30.0, 0, 0, 0, 0, 0]).double() + 0.01 * x[y == 0]
    model = network()
    with torch.no_grad():
        features = model[:2](x[y == 0]).mean(0)
        model[2].weight[0] += gap * features / features.dot(features)
    return model.float(), x.float(), y


@pytest.mark.parametrize("gap", [17, 22, 60])
def test_a_class_that_vanishes_in_float32_is_measured_in_float64_and_the_others_go_on(gap):
    model, x, y = fitted(gap)
    rows = list(iter_spectra(model, CRITERION, (x, y), groups=()))
    assert [row.dtype for row in rows] == ["float64", "float32", "float32"]
    assert ("zero to rounding" if gap > 30 else "measured in float64") in rows[0].ends.notes[0]
    assert gap < 30 or rows[0].verdict == "unresolved"
    exact = network().double()
    exact.load_state_dict(model.state_dict())
    for row in rows:
        some = y == int(row.name)
        truth = torch.linalg.eigvalsh(truth_of(exact, x[some].double(), y[some]))
        assert row.lambda_max_lower <= truth[-1] <= row.lambda_max_upper
        assert row.lambda_min_lower <= truth[0] <= row.lambda_min_upper
