"""Gauss-Newton against JᵀHJ assembled densely with torch.func, in float64.

The oracle shares no code with the operator: J by `jacrev` of the outputs in a flat w, the
criterion's Hessian by `torch.func.hessian` in the flat outputs.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian, jacrev

from saddlescope.curvature import (
    GaussNewtonOperator,
    HessianOperator,
    difference,
    extreme_eigenvalues,
)
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import DataError, OperatorError, UsageError
from tests.curvature.networks import (
    Augmented,
    Restless,
    convolutional,
    dense_hessian,
    images,
    split_batches,
)

WEIGHT = torch.tensor([0.1, 3.0, 1.0, 0.5]).double()
CRITERIA = {
    "mean": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "weighted": nn.CrossEntropyLoss(weight=WEIGHT),
    "weighted-smoothed": nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1),
    "ignoring": nn.CrossEntropyLoss(ignore_index=2),
    "function": F.cross_entropy,
    "per-sample": lambda z, y: F.cross_entropy(z, y, reduction="none"),
    "not convex": lambda z, y: (torch.sin(z).square().sum(1) + z[:, 0] * z[:, 1]).mean(),
}


def dense_gauss_newton(model, inputs, criterion_of_outputs):
    """Jᵀ·∇²ℓ·J; `criterion_of_outputs` maps the model's outputs to the whole loss."""
    named = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in named.values()]

    def outputs(vector):
        parts = torch.split(vector, sizes)
        parameters = {
            name: part.view(p.shape) for part, (name, p) in zip(parts, named.items(), strict=True)
        }
        return functional_call(model, parameters, (inputs,))

    point = torch.cat([p.reshape(-1) for p in named.values()])
    reached = outputs(point)
    jacobian = jacrev(lambda w: outputs(w).reshape(-1))(point)
    middle = hessian(lambda z: criterion_of_outputs(z.view(reached.shape)))(reached.reshape(-1))
    return jacobian.T @ middle @ jacobian


def mean_of(criterion, targets):
    def loss(z):
        value = criterion(z, targets)
        return value if value.dim() == 0 else value.mean()

    return loss


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("budget", [None, 0])
def test_dense_matrix_and_split_into_batches(name, budget):
    model, data, criterion = convolutional(), images(23), CRITERIA[name]
    wanted = dense_gauss_newton(model, data[0], mean_of(criterion, data[1]))
    for sizes in ((23,), (10, 13), (1, 20, 2)):
        operator = GaussNewtonOperator(
            model, criterion, split_batches(data, *sizes), memory_budget=budget
        )
        assert operator.retained == (0.0 if budget == 0 else 1.0)
        torch.testing.assert_close(dense_matrix(operator), wanted, rtol=1e-9, atol=1e-12)


def test_loss_and_gradient_come_along():
    model, data = convolutional(), images(23)
    options = {"weight_decay": 0.01}
    mine = GaussNewtonOperator(model, nn.CrossEntropyLoss(), split_batches(data, 9, 14), **options)
    theirs = HessianOperator(model, nn.CrossEntropyLoss(), [data], **options)
    assert mine.loss == pytest.approx(theirs.loss, rel=1e-12)
    torch.testing.assert_close(mine.gradient, theirs.gradient)


def test_part_of_the_batches_retained():
    model, data = convolutional(), images(30)
    whole = GaussNewtonOperator(model, nn.CrossEntropyLoss(), split_batches(data, 10, 10, 10))
    for budget in range(1, 200_000, 20_000):
        partial = GaussNewtonOperator(
            model, nn.CrossEntropyLoss(), split_batches(data, 10, 10, 10), memory_budget=budget
        )
        if 0 < partial.retained < 1:
            break
    assert partial.retained in (pytest.approx(1 / 3), pytest.approx(2 / 3))
    vector = torch.ones(whole.size, dtype=torch.float64)
    torch.testing.assert_close(partial.matvec(vector), whole.matvec(vector))


def test_cross_entropy_is_semidefinite_and_the_rest_carries_the_negative_curvature():
    model, data = convolutional(), images(23)
    full = HessianOperator(model, nn.CrossEntropyLoss(), [data])
    part = GaussNewtonOperator.from_objective(full.objective)
    values = torch.linalg.eigvalsh(dense_matrix(part))
    assert values[0] >= -1e-14 * values[-1]
    assert torch.linalg.eigvalsh(dense_matrix(full))[0] < -1e-3
    truth = dense_hessian(
        model, lambda f: F.cross_entropy(f(data[0]), data[1])
    ) - dense_gauss_newton(model, data[0], lambda z: F.cross_entropy(z, data[1]))
    rest = difference(full, part)
    torch.testing.assert_close(dense_matrix(rest), truth, rtol=1e-9, atol=1e-12)
    ends = extreme_eigenvalues(rest, rtol=1e-8)
    assert ends.lambda_min.value == pytest.approx(torch.linalg.eigvalsh(truth)[0].item(), rel=1e-7)


def test_of_a_linear_model_it_is_the_hessian():
    torch.manual_seed(0)
    model = nn.Linear(6, 4).double()
    data = [(torch.randn(9, 6).double(), torch.randint(0, 4, (9,)))]
    options = {"weight_decay": 0.2}
    torch.testing.assert_close(
        dense_matrix(GaussNewtonOperator(model, nn.CrossEntropyLoss(), data, **options)),
        dense_matrix(HessianOperator(model, nn.CrossEntropyLoss(), data, **options)),
    )


def test_mean_squared_error_is_the_textbook_gauss_newton_matrix():
    model, (inputs, _) = convolutional(), images(11)
    targets = torch.randn(11, 4, dtype=torch.float64)
    operator = GaussNewtonOperator(model, nn.MSELoss(), split_batches((inputs, targets), 4, 7))
    wanted = dense_gauss_newton(model, inputs, lambda z: F.mse_loss(z, targets))
    torch.testing.assert_close(dense_matrix(operator), wanted, rtol=1e-9, atol=1e-12)


class TwoOutputs(nn.Module):
    """Logits, and something computed from them: independent outputs to Gauss-Newton."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        z = self.inner(x)
        return {"logits": z, "pair": (torch.tanh(z[:, 0]), x.shape)}


def test_several_outputs_that_depend_on_one_another():
    inner, (inputs, targets) = convolutional(), images(8)

    def criterion(outputs, y):
        return F.cross_entropy(outputs["logits"], y) + outputs["pair"][0].square().mean()

    def of_flat(z):
        return F.cross_entropy(z[:, :4], targets) + z[:, 4].square().mean()

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            z = self.inner(x)
            return torch.cat([z, torch.tanh(z[:, :1])], 1)

    operator = GaussNewtonOperator(TwoOutputs(inner), criterion, [(inputs, targets)])
    wanted = dense_gauss_newton(Flat(), inputs, of_flat)
    torch.testing.assert_close(dense_matrix(operator), wanted, rtol=1e-9, atol=1e-12)


def test_a_criterion_linear_in_the_outputs_has_none():
    model, data = convolutional(), images(5)
    for budget in (None, 0):
        operator = GaussNewtonOperator(
            model, lambda z, y: z[:, 0].mean(), [data], memory_budget=budget
        )
        assert not dense_matrix(operator).any()


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_scaling_the_loss(factor):
    model, data = convolutional(), images(9)
    plain = GaussNewtonOperator(model, F.cross_entropy, [data])
    scaled = GaussNewtonOperator(model, lambda z, y: factor * F.cross_entropy(z, y), [data])
    vector = torch.ones(plain.size, dtype=torch.float64)
    torch.testing.assert_close(scaled.matvec(vector), factor * plain.matvec(vector))


def test_parameter_filter_and_unused_parameters():
    model, data = convolutional(), images(7)
    model.spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
    model.forward = lambda x: nn.Sequential.forward(model[:7], x)
    whole = dense_matrix(GaussNewtonOperator(model, nn.CrossEntropyLoss(), [data]))
    assert not whole[:3].any()  # `spare` comes first, being the model's own
    last = GaussNewtonOperator(model, nn.CrossEntropyLoss(), [data], parameters="6.*")
    torch.testing.assert_close(dense_matrix(last), whole[-last.size :, -last.size :])
    spare = GaussNewtonOperator(model, nn.CrossEntropyLoss(), [data], parameters="spare")
    assert not dense_matrix(spare).any()


def test_float32_against_its_reference():
    model, (inputs, targets) = convolutional(dtype=torch.float32), images(23)
    operator = GaussNewtonOperator(
        model, nn.CrossEntropyLoss(weight=WEIGHT.float()), [(inputs.float(), targets)]
    )
    reference = operator.reference()
    assert reference.dtype == torch.float64
    assert reference.reference() is reference
    ends = extreme_eigenvalues(operator)
    truth = torch.linalg.eigvalsh(dense_matrix(reference))
    assert ends.lambda_max.lower <= truth[-1] <= ends.lambda_max.upper
    assert ends.verdict == "unresolved"  # semidefinite: λ_min is 0
    assert operator.gradient_cost > 5 / 3 + 4 / 3 * ends.matvecs


@pytest.mark.parametrize("budget", [None, 0])
def test_no_trace_is_left(budget):
    model, data = Restless().eval(), images(10)
    model.inner[0].weight.grad = torch.ones_like(model.inner[0].weight)
    model.inner[6].bias.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    operator = GaussNewtonOperator(model, nn.CrossEntropyLoss(), [data], memory_budget=budget)
    operator.verify()
    extreme_eigenvalues(operator)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert torch.equal(model.inner[0].weight.grad, torch.ones_like(model.inner[0].weight))
    assert all(p.grad is None for n, p in model.named_parameters() if n != "inner.0.weight")
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["inner.6.bias"]
    assert not model.training


def test_refusals():
    model, data = convolutional(), images(6)
    with pytest.raises(OperatorError, match=r"BatchNorm2d.*model\.eval"):
        GaussNewtonOperator(convolutional().train(), nn.CrossEntropyLoss(), [data])
    with pytest.raises(OperatorError, match="does not depend on the parameters"):
        GaussNewtonOperator(model, lambda z, y: F.cross_entropy(z.detach(), y), [data])
    with pytest.raises(DataError, match="no samples"):
        GaussNewtonOperator(model, nn.CrossEntropyLoss(), [])
    with pytest.raises(UsageError, match="no trainable parameter matching"):
        GaussNewtonOperator(model, nn.CrossEntropyLoss(), [data], parameters="nothing")
    operator = GaussNewtonOperator(model, nn.CrossEntropyLoss(), [data])
    with pytest.raises(UsageError, match=r"expected \(\d+,\)"):
        operator.matvec(torch.ones(3).double())
    with torch.no_grad():
        model[0].weight += 1
    with pytest.raises(OperatorError, match="build it anew"):
        operator.matvec(torch.ones(operator.size).double())
    with torch.no_grad():
        model[6].weight[0, 0] = torch.nan
    with pytest.raises(OperatorError, match=r"6\.weight holds NaN"):
        GaussNewtonOperator(model, nn.CrossEntropyLoss(), [data])


def test_data_that_change_are_refused():
    with pytest.raises(OperatorError, match="shuffling and augmentation"):
        GaussNewtonOperator(convolutional(), nn.CrossEntropyLoss(), Augmented(), memory_budget=0)
