"""Wrong derivatives are refused with both numbers, right ones pass, whatever the kinks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from saddlescope.curvature import (
    HessianOperator,
    Programs,
    class_spectra,
    extreme_eigenvalues,
    iter_spectra,
    spectral_density,
    trace,
)
from saddlescope.curvature.checks.guard import check_derivatives
from saddlescope.errors import OperatorError
from tests.curvature.networks import convolutional, images

CRITERION = nn.CrossEntropyLoss()
X = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(20) % 3


def built(middle, dtype=torch.float64, first=None):
    torch.manual_seed(0)
    first = nn.Linear(6, 8) if first is None else first()
    model = nn.Sequential(first, middle, nn.Linear(8, 3)).to(dtype).eval()
    return HessianOperator(model, CRITERION, [(X.to(dtype), Y)])


class _Kept(torch.autograd.Function):
    """x³ whose backward reads a tensor from ctx, so that its second derivative is lost."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach()
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3 * ctx.x**2


class _Saved(_Kept):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3 * ctx.saved_tensors[0] ** 2


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


USES = {"ends": extreme_eigenvalues, "trace": trace, "density": spectral_density}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wrap", ["parametrization", "hook"])
def test_weight_norm_is_refused(wrap, dtype, use):
    def first():
        if wrap == "hook":
            with pytest.warns(FutureWarning):
                return nn.utils.weight_norm(nn.Linear(6, 8))
        return nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))

    with pytest.raises(OperatorError, match=r"second derivative is wrong.*by double backward and"):
        USES[use](built(nn.Tanh(), dtype, first))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_function_that_keeps_tensors_on_ctx_is_refused(dtype):
    with pytest.raises(OperatorError, match="keeps tensors on ctx"):
        extreme_eigenvalues(built(Apply(_Kept.apply), dtype))
    assert extreme_eigenvalues(built(Apply(_Saved.apply), dtype)).notes == ()


def test_a_gradient_that_is_not_the_losss_is_refused():
    with pytest.raises(OperatorError, match="gradient is not that of the loss"):
        extreme_eigenvalues(built(Apply(_Reversed.apply)))


def test_embeddings_scaled_by_frequency_are_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 5, scale_grad_by_freq=True), nn.Flatten())
    model.append(nn.Linear(20, 3))
    ids = torch.randint(0, 9, (12, 4), generator=torch.Generator().manual_seed(1))
    operator = HessianOperator(model.double().eval(), CRITERION, [(ids, Y[:12])])
    with pytest.raises(OperatorError, match="scale_grad_by_freq"):
        extreme_eigenvalues(operator)


class Checkpointed(nn.Module):
    def __init__(self, *, first, reentrant):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.first, self.reentrant = first, reentrant

    def forward(self, x):
        if self.first:
            hidden = checkpoint(lambda h: torch.tanh(self.a(h)), x, use_reentrant=self.reentrant)
            return self.c(torch.tanh(self.b(hidden)))
        hidden = torch.tanh(self.a(x))
        hidden = checkpoint(lambda h: torch.tanh(self.b(h)), hidden, use_reentrant=self.reentrant)
        return self.c(hidden)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpoints_are_refused_and_others_are_not(first):
    def ends(*, reentrant):
        torch.manual_seed(0)
        model = Checkpointed(first=first, reentrant=reentrant).double()
        return extreme_eigenvalues(HessianOperator(model, CRITERION, [(X.double(), Y)]))

    assert ends(reentrant=False).notes == ()
    words = r"changes with a\.weight, but no gradient" if first else "cannot be differentiated"
    with pytest.raises(OperatorError, match=words + ".*use_reentrant=False"):
        ends(reentrant=True)


def test_a_parameter_behind_detach_is_named_and_can_be_left_out():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.used, self.spare = nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(torch.tanh(self.frozen(x)).detach())

    torch.manual_seed(0)
    model = Detached().double()
    with pytest.raises(OperatorError, match=r"frozen\.weight, but no gradient.*parameters="):
        extreme_eigenvalues(HessianOperator(model, CRITERION, [(X.double(), Y)]))
    used = HessianOperator(model, CRITERION, [(X.double(), Y)], parameters=["used*", "spare*"])
    (note,) = extreme_eigenvalues(used).notes
    assert "no gradient reaches spare.weight, spare.bias" in note


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [nn.ReLU, nn.Hardtanh, nn.Tanh], ids=["relu", "hardtanh", "tanh"])
def test_networks_with_kinks_pass(kind, dtype, seed):
    torch.manual_seed(seed)
    model = convolutional(dtype=dtype, seed=seed)
    model[2], model[4] = kind(), nn.MaxPool2d(4)
    operator = HessianOperator(model, CRITERION, [images(8, dtype=dtype, seed=seed)])
    operator.verify()
    assert operator.notes == ()


def test_kinks_at_the_weights_themselves_are_no_refusal():
    """Zero biases and black images: every unit of the first layer sits on its kink."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    nn.init.zeros_(model[0].bias)
    x = torch.zeros(20, 6).double()
    x[10:] = X[10:].double()
    HessianOperator(model, CRITERION, [(x, Y)]).verify()


def test_a_fresh_network_on_black_pixels_is_no_refusal():
    """Without biases its first maps are zero there: the loss has a kink at w."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)
    )
    nn.init.zeros_(model[0].bias)
    x, y = images(12, dtype=torch.float32)
    x[:, :, :, 4:] = 0.0
    for seed in range(3):
        operator = HessianOperator(model.eval(), CRITERION, [(x.roll(seed, 0), y.roll(seed))])
        operator.verify()
        operator.check(torch.randn(operator.size, generator=torch.Generator().manual_seed(seed)))


class Dip(nn.Module):
    """A dip of the loss as wide as 1e-8 of the weights' length, with curvature 2 at its bottom."""

    def __init__(self):
        super().__init__()
        self.far = nn.Parameter(torch.ones(4, dtype=torch.float64) / 2)
        self.near = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return 1e-16 * torch.log1p((self.near / 1e-8) ** 2) + 0.0 * x.sum() * self.far.sum()


def test_curvature_that_changes_within_the_shortest_step_is_no_error_of_torch():
    x = torch.ones(3, 1, dtype=torch.float64)
    operator = HessianOperator(Dip(), lambda z, _: z.mean(), [(x, x)])
    operator.verify()
    operator.check(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64))


def test_padding_rows_are_no_lost_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 5, padding_idx=0), nn.Tanh(), nn.Flatten())
    model.append(nn.Linear(20, 3))
    ids = torch.randint(0, 9, (12, 4), generator=torch.Generator().manual_seed(1))
    operator = HessianOperator(model.double().eval(), CRITERION, [(ids, Y[:12])])
    assert extreme_eigenvalues(operator).notes == ()


def test_a_stationary_point_passes():
    class Saddle(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3).double())

        def forward(self, x):
            return x + self.w

    x = torch.zeros(4, 3).double()
    operator = HessianOperator(Saddle(), lambda z, _: (z[:, 0] * z[:, 1]).mean(), [(x, x)])
    operator.verify()
    assert operator.notes == ()


def test_the_model_is_left_alone_and_cost_is_counted():
    model = convolutional()
    before = copy.deepcopy(model.state_dict())
    versions = [p._version for p in model.parameters()]
    operator = HessianOperator(model, CRITERION, [images(40)])
    cost = check_derivatives(operator.objective)
    assert cost == pytest.approx(5 * 2 / 40)
    assert versions == [p._version for p in model.parameters()]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    operator.matvec(torch.ones(operator.size).double())


def test_a_model_that_cannot_be_copied_is_checked_in_its_own_precision():
    class Uncopied(nn.Sequential):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    torch.manual_seed(0)
    for function, wrong in ((_Saved.apply, False), (_Kept.apply, True)):
        model = Uncopied(nn.Linear(6, 8), Apply(function), nn.Linear(8, 3)).eval()
        operator = HessianOperator(model, CRITERION, [(X, Y)])
        if wrong:
            with pytest.raises(OperatorError, match="second derivative is wrong"):
                operator.verify()
        else:
            operator.verify()
            assert operator.notes == ()


def test_a_job_checks_once_and_a_rows_cost_does_not_depend_on_the_rows_before(monkeypatch):
    from saddlescope.curvature.operators import hessian

    checked = []
    monkeypatch.setattr(
        hessian, "check_derivatives", lambda *arguments: checked.append(len(arguments)) or 0.0
    )
    model, data = convolutional(), images(24)
    both = class_spectra(model, CRITERION, data, classes=[1, 2], groups=())
    assert len(checked) == 2
    (alone,) = iter_spectra(model, CRITERION, data, classes=[2], groups=())
    assert both.gradient_cost[1] == alone.gradient_cost


def test_the_criterion_may_be_traced_around():
    """Tracing does not lose the check: it is of double backward and the loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Apply(_Kept.apply), nn.Linear(8, 3)).double()
    data, programs = [(X.double(), Y)], Programs("traced")
    operator = HessianOperator(model, F.cross_entropy, data, programs=programs)
    with pytest.raises(OperatorError, match="second derivative is wrong"):
        operator.verify()
