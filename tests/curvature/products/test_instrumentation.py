"""What the instrument adds (planning, metering, folding, recording) refuses no network that works.

The truth is the dense Hessian in float64, by plain double backward.
"""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from saddlescope.curvature import (
    BatchLoss,
    CurvatureMonitor,
    HessianOperator,
    Programs,
    TensorSamples,
    class_spectra,
    extreme_eigenvalues,
)
from saddlescope.curvature.products import recording
from saddlescope.curvature.products.graphs import RecordingError
from saddlescope.curvature.products.recording import record
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import OperatorError, UsageError
from tests import fresh
from tests.curvature.networks import convolutional, dense_hessian, images

CRITERION = nn.CrossEntropyLoss()


def autograd_works():
    return nn.Linear(2, 2)(torch.rand(1, 2)).requires_grad


class Normalised(nn.Module):
    """Subtracts a mean that is no buffer."""

    def __init__(self):
        super().__init__()
        self.inner, self.mean = convolutional(), torch.linspace(-1, 1, 8).double()

    def forward(self, x):
        return self.inner((x - self.mean) * torch.tensor(0.5))


class Awkward(nn.Module):
    """Cannot be recorded: it branches on a value."""

    def __init__(self):
        super().__init__()
        self.inner = convolutional()

    def forward(self, x):
        if x.sum() > 1e9:
            raise ValueError
        return self.inner(x)


QUIET = """
import warnings
warnings.simplefilter("error")
import torch
from saddlescope.curvature import HessianOperator, Programs
programs = Programs("traced")
batch = torch.ones(3, 4), torch.arange(3)
HessianOperator(torch.nn.Linear(4, 3), torch.nn.CrossEntropyLoss(), [batch], programs=programs)
print(programs.traced)
"""


class TestRecording:
    def test_torch_warns_of_nothing_of_its_own(self, tmp_path):
        (tmp_path / "quiet.py").write_text(QUIET)
        done = fresh.run(tmp_path / "quiet.py")
        assert done.stdout == "True\n", done.stdout + done.stderr

    def test_what_the_first_recording_makes_belongs_to_a_thread_that_stays(self, monkeypatch):
        """Of a torch for CUDA on a machine without it; others go on as if they were that."""
        made_by = []
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(
            torch._C, "_ensureCUDADeviceGuardSet",
            lambda: made_by.append(threading.current_thread()), raising=False,
        )  # fmt: skip
        recording._hold_device_guard.cache_clear()
        for _ in range(2):
            record(lambda x: 2 * x, torch.ones(3))
        assert made_by[0].is_alive()
        assert made_by[0].daemon

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_plain_tensors_become_inputs_of_the_recording(self, dtype):
        model = Normalised().to(dtype)
        model.mean = model.mean.to(dtype)
        x, y = images(7, dtype=dtype)
        weight = torch.tensor([0.2, 1.0, 3.0, 2.0], dtype=dtype)

        def criterion(outputs, targets):
            return F.cross_entropy(outputs, targets, weight=weight, reduction="none")

        programs = Programs("traced")
        operator = HessianOperator(model, criterion, [(x, y)], programs=programs)
        assert programs.traced
        truth = dense_hessian(model, lambda f: criterion(f(x), y).mean())
        scale = 1e-8 if dtype == torch.float64 else 2e-4
        torch.testing.assert_close(dense_matrix(operator), truth, rtol=scale, atol=scale)
        if dtype == torch.float64:
            weight.mul_(2)  # an input, not a copy of one
            again = HessianOperator(model, criterion, [(x, y)], programs=programs)
            torch.testing.assert_close(dense_matrix(again), 2 * truth, rtol=1e-8, atol=1e-11)
        assert autograd_works()

    def test_a_plain_mean_of_a_weighted_loss_is_the_same_by_every_strategy(self):
        torch.manual_seed(0)
        x, y, weight = torch.rand(9, 6), torch.arange(9) % 3, torch.tensor([0.2, 1.0, 3.0])
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
        found = [
            class_spectra(
                model, lambda z, t: F.cross_entropy(z, t, weight=weight), (x, y),
                classes="none", strategy=strategy,
            ).lambda_max[0]
            for strategy in ("double-backward", "traced", "double-backward")
        ]  # fmt: skip
        assert found == pytest.approx([found[0]] * 3, rel=1e-5)
        assert autograd_works()

    def test_a_failed_recording_is_told_and_stays_in_its_thread(self, caplog):
        model, (x, y) = Awkward(), images(7)
        threads = threading.active_count()
        operator = HessianOperator(model, CRITERION, [(x, y)], programs=Programs("traced"))
        truth = dense_hessian(model.inner, lambda f: F.cross_entropy(f(x), y))
        torch.testing.assert_close(dense_matrix(operator), truth)
        assert "test_instrumentation.py" in caplog.text
        assert "if x.sum() > 1e9" in caplog.text
        assert autograd_works()
        assert threading.active_count() == threads

    def test_a_failure_inside_torch_leaves_the_callers_autograd_on(self):
        def fails(x):
            torch.func.grad(lambda z: z.sum())(x)
            raise RuntimeError("first line\nsecond line")

        with pytest.raises(RecordingError, match=r"recording failed \(first line, in fails at"):
            record(fails, torch.ones(3))
        assert autograd_works()

    def test_training_goes_on_after_a_monitor_that_traced(self):
        model, (x, y) = Awkward(), images(12)
        monitor = CurvatureMonitor(
            CRITERION, TensorSamples(x, y), groups=("all",), classes="none", max_matvecs=3,
            programs=Programs("traced"),
        )  # fmt: skip
        monitor(model, 0)
        F.cross_entropy(model(x), y).backward()


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.encoder, self.embed = nn.TransformerEncoder(layer, 1), nn.Embedding(7, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, ids):
        return self.out(self.encoder(self.embed(ids), src_key_padding_mask=ids == 0).mean(1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_fast_path_of_a_padded_transformer_is_off_and_on_again():
    torch.manual_seed(0)
    model, y = Tagger().double().eval(), torch.arange(8) % 3
    ids = torch.randint(1, 7, (8, 6))
    ids[3:, 4:] = 0
    operator = HessianOperator(model, CRITERION, [(ids, y)])
    assert extreme_eigenvalues(operator).notes == ()
    with sdpa_kernel(SDPBackend.MATH):
        truth = dense_hessian(model, lambda f: F.cross_entropy(f(ids), y))
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-8, atol=1e-11)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_that_is_another_function_without_gradients_is_measured_with_them():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = convolutional()

        def forward(self, x):
            return self.inner(x) * (1.0 if torch.is_grad_enabled() else 2.0)

    model, (x, y) = Two(), images(9)
    operator = HessianOperator(model, CRITERION, [(x, y)])
    (note,) = extreme_eigenvalues(operator).notes
    assert "without gradients the model is another function" in note
    assert operator.objective.loss() == pytest.approx(operator.loss)


class Forces(nn.Module):
    """−∂E/∂x of a learned energy."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x):
        x = x.detach().requires_grad_()
        return -torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


@pytest.mark.parametrize("strategy", ["double-backward", "traced"])
def test_a_force_field(strategy):
    torch.manual_seed(0)
    model, x = Forces().double(), torch.randn(9, 3).double()
    data = [(x[:4], 2 * x[:4]), (x[4:], 2 * x[4:])]
    operator = HessianOperator(model, nn.MSELoss(), data, programs=Programs(strategy))
    assert extreme_eigenvalues(operator).converged
    parameters = list(model.parameters())
    loss = F.mse_loss(model(x), 2 * x)
    grads = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = [
        torch.autograd.grad(flat, parameters, e, retain_graph=True, materialize_grads=True)
        for e in torch.eye(len(flat)).double()
    ]
    truth = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-8, atol=1e-11)


def _by_func(model, points):
    def at(q):
        return model(q[None])[0, 0]

    return torch.func.vmap(torch.func.grad(at))(points).square().sum(1).mean()


def _by_jvp(model, points):
    basis = torch.eye(2, dtype=points.dtype)
    slopes = [torch.func.jvp(model, (points,), (e.expand_as(points),))[1] for e in basis]
    return sum(slope.square() for slope in slopes).mean()


@pytest.mark.parametrize("function", [_by_func, _by_jvp])
@pytest.mark.parametrize("budget", [None, 0])
def test_losses_that_use_torch_func(function, budget):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double().eval()
    points = torch.rand(9, 2).double()
    operator = HessianOperator(
        model, BatchLoss(function), [points[:4], points[4:]], memory_budget=budget
    )

    def truth_loss(p):
        p = p.detach().requires_grad_()
        slope = torch.autograd.grad(model(p).sum(), p, create_graph=True)[0]
        return slope.square().sum(1).mean()

    plain = HessianOperator(model, BatchLoss(lambda _, p: truth_loss(p)), [points])
    torch.testing.assert_close(dense_matrix(operator), dense_matrix(plain), rtol=1e-8, atol=1e-11)
    assert operator.retained == (1.0 if budget is None else 0.0)
    if budget is None:
        assert operator.products.nbytes > 0
    operator.verify()


class OneSize(nn.Module):
    def __init__(self, *, carried=False):
        super().__init__()
        self.cell, self.out = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 3)
        self.state = torch.zeros(1, 6, 3).double()
        self.carried = carried

    def forward(self, x):
        hidden, state = self.cell(x, self.state)
        if self.carried:
            self.state = state.detach()
        return self.out(hidden[:, -1])


@pytest.mark.parametrize("strategy", ["auto", "double-backward", "traced"])
def test_a_model_of_one_batch_size(strategy):
    torch.manual_seed(0)
    model, x, y = OneSize().double(), torch.randn(12, 5, 4).double(), torch.arange(12) % 3
    programs = Programs(strategy)
    operator = HessianOperator(
        model, CRITERION, [(x[:6], y[:6]), (x[6:], y[6:])], programs=programs
    )
    programs.expect(operator.objective, [12])
    (note,) = extreme_eigenvalues(operator).notes
    assert "half a batch could not be evaluated" in note
    halves = [
        dense_hessian(model, lambda f, s=s: F.cross_entropy(f(x[s]), y[s]))
        for s in (slice(0, 6), slice(6, 12))
    ]
    torch.testing.assert_close(dense_matrix(operator), (halves[0] + halves[1]) / 2)


def test_a_state_carried_from_call_to_call_is_held_put_back_and_noted():
    torch.manual_seed(0)
    model, x, y = OneSize(carried=True).double(), torch.randn(6, 5, 4).double(), torch.arange(6) % 3
    before = model.state
    operator = HessianOperator(model, CRITERION, [(x, y)])
    notes = extreme_eigenvalues(operator).notes
    assert any("state is carried from call to call" in note for note in notes)
    assert model.state is before
    fixed = OneSize().double()
    fixed.load_state_dict(model.state_dict())
    truth = dense_hessian(fixed, lambda f: F.cross_entropy(f(x), y))
    torch.testing.assert_close(dense_matrix(operator), truth)


def test_what_a_model_keeps_for_its_user_is_put_back():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.features = convolutional(), None

        def forward(self, x):
            self.features = self.inner(x)
            self.seen = len(x)
            return self.features

    model = Caching()
    operator = HessianOperator(model, CRITERION, [images(7)], programs=Programs("traced"))
    assert extreme_eigenvalues(operator).notes == ()
    assert model.features is None
    assert not hasattr(model, "seen")


class Bag(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.e, self.o = nn.Embedding(9, 5, **options), nn.Linear(5, 3)

    def forward(self, x):
        return self.o(torch.tanh(self.e(x).sum(1)))


def bag(dtype=torch.float64, **options):
    torch.manual_seed(0)
    return Bag(**options).to(dtype).eval()


IDS = torch.randint(0, 9, (12, 4), generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 3


@pytest.mark.parametrize("budget", [None, 0])
def test_sparse_gradients(budget):
    batches = [(IDS[:5], LABELS[:5]), (IDS[5:], LABELS[5:])]
    sparse, dense = bag(sparse=True), bag()
    operator = HessianOperator(sparse, CRITERION, batches, memory_budget=budget)
    truth = dense_hessian(dense, lambda f: F.cross_entropy(f(IDS), LABELS))
    torch.testing.assert_close(dense_matrix(operator), truth)
    assert extreme_eigenvalues(operator).notes == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_max_norm_is_measured_at_the_cut_weights_and_the_users_stay(dtype):
    model = bag(dtype, max_norm=1.0)
    before = model.e.weight.detach().clone()
    batches = [(IDS[:5], LABELS[:5]), (IDS[5:], LABELS[5:])]
    operator = HessianOperator(model, CRITERION, batches)
    ends = extreme_eigenvalues(operator)
    assert torch.equal(model.e.weight, before)
    assert "max_norm" in ends.notes[0]
    model(IDS)  # cuts the rows
    cut = bag()
    cut.load_state_dict(model.state_dict())
    truth = torch.linalg.eigvalsh(dense_hessian(cut, lambda f: F.cross_entropy(f(IDS), LABELS)))
    assert ends.lambda_max.lower <= truth[-1] <= ends.lambda_max.upper
    assert ends.lambda_min.lower <= truth[0] <= ends.lambda_min.upper
    with pytest.raises(OperatorError, match=r"e\.weight changed after the operator was built"):
        operator.matvec(torch.ones(operator.size, dtype=dtype))


def test_complex_parameters_are_told_what_helps():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 3, dtype=torch.complex64))

        def forward(self, x):
            return (x.to(torch.complex64) @ self.w).abs()

    with pytest.raises(UsageError, match=r"parameter w is complex.*view_as_real"):
        HessianOperator(Complex(), CRITERION, [(torch.rand(4, 3), torch.arange(4) % 3)])
