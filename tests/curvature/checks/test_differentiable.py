"""What torch itself cannot differentiate is refused, whatever its hooks let through."""

import pytest
import torch
from torch import nn

from saddlescope.curvature import (
    GaussNewtonOperator,
    HessianOperator,
    Programs,
    class_spectra,
    extreme_eigenvalues,
)
from saddlescope.errors import OperatorError
from tests.curvature.checks.test_guard import CRITERION, Apply, X, Y, built


def _overwritten(x):
    return x.tanh().add_(1)  # tanh's derivative is made of its output


STRATEGIES = {"plain": None, "double": "double-backward", "auto": "auto"}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_operation_in_place_over_a_saved_tensor_is_refused(dtype, strategy):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Apply(_overwritten), nn.Linear(8, 3)).to(dtype).eval()
    data = [(X.to(dtype), Y)]
    with pytest.raises(RuntimeError, match="inplace"):
        CRITERION(model(data[0][0]), Y).backward()
    programs = STRATEGIES[strategy] and Programs(STRATEGIES[strategy])
    for kind in (HessianOperator, GaussNewtonOperator):
        with pytest.raises(OperatorError, match=r"out of place.*torch: .*inplace operation") as one:
            kind(model, CRITERION, data, programs=programs)
        assert "Hint" not in str(one.value)
    with pytest.raises(OperatorError, match="out of place"):
        class_spectra(model, CRITERION, (data[0][0], Y), classes=[0], groups=())


def test_an_operation_in_place_over_what_nothing_needs_is_not_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Apply(lambda x: x.mul(2).tanh_()), nn.Linear(8, 3))
    operator = HessianOperator(model.double().eval(), CRITERION, [(X.double(), Y)])
    assert extreme_eigenvalues(operator).notes == ()


class _Refused(torch.autograd.Function):
    """x whose backward fails with some samples, or in a precision."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if len(gradient) < 10 or gradient.dtype == torch.float64:
            raise RuntimeError("my kernel says no\nin two lines")
        return gradient.clone()


def test_a_loss_of_few_samples_that_cannot_be_differentiated_is_refused():
    operator = built(Apply(_Refused.apply), torch.float32)
    with pytest.raises(OperatorError, match=r"samples twice: RuntimeError: my kernel says no$"):
        extreme_eigenvalues(operator)


class _Single(_Refused):
    """x whose backward is written for one precision."""

    @staticmethod
    def backward(ctx, gradient):
        if gradient.dtype == torch.float64:
            raise RuntimeError("expected float")
        return gradient.clone()


def test_a_backward_of_one_precision_is_checked_in_that():
    operator = built(Apply(_Single.apply), torch.float32)
    operator.verify()
    assert operator.notes == ()


def test_a_buffer_that_each_batch_writes_is_no_reason_to_refuse():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 3)
            self.register_buffer("scale", torch.ones(3))

        def forward(self, x):
            self.scale.fill_(2.0)
            return torch.tanh(self.inner(x) * self.scale)

    torch.manual_seed(0)
    model = Scaled().double()
    one = HessianOperator(model, CRITERION, [(X.double(), Y)])
    two = HessianOperator(model, CRITERION, [(X[:9].double(), Y[:9]), (X[9:].double(), Y[9:])])
    two.verify()
    probe = torch.ones(one.size).double()
    torch.testing.assert_close(two.matvec(probe), one.matvec(probe))


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_a_weight_that_was_computed_before_the_forward_pass_is_refused(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(6, 8)), nn.Linear(8, 3))
    refused = pytest.raises(OperatorError, match=r"outside of parametrize\.cached\(\)")
    with nn.utils.parametrize.cached(), refused:
        extreme_eigenvalues(kind(model.double().eval(), CRITERION, [(X.double(), Y)]))
