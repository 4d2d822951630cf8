"""The references against dense matrices, each other, and what they cannot do."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.curvature import BatchLoss, HessianOperator, extreme_eigenvalues
from saddlescope.curvature import reference as references
from saddlescope.errors import UsageError
from tests.curvature.networks import convolutional, dense_hessian, images

TOOLS = {
    "dense": references.dense_reference,
    "scipy eigsh": references.eigsh_reference,
    "pyhessian": references.pyhessian_reference,
}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("tool", TOOLS)
def test_ends_of_the_network(tool, sign):
    model, data = convolutional(), images(20)

    def criterion(outputs, targets):
        return sign * F.cross_entropy(outputs, targets)

    truth = torch.linalg.eigvalsh(dense_hessian(model, lambda f: criterion(f(data[0]), data[1])))
    state = torch.get_rng_state()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = TOOLS[tool](model, criterion, data)
    assert found.tool == tool
    assert found.products > 0
    assert found.seconds > 0
    given = {"lambda_max": truth[-1].item(), "lambda_min": truth[0].item()}
    if tool == "pyhessian":
        missing = "lambda_min" if sign > 0 else "lambda_max"
        assert getattr(found, missing) is None
        assert "largest magnitude only" in found.note
        del given[missing]
    for name, value in given.items():
        assert abs(getattr(found, name) - value) <= found.error + 1e-12
    assert found.error < 1e-2 * truth.abs().max().item()
    # No trace of it.
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_they_take_dict_batches_but_pyhessian_does_not():
    torch.manual_seed(0)
    model = nn.Bilinear(2, 3, 2).double()
    batch = {"input1": torch.randn(5, 2), "input2": torch.randn(5, 3)}
    loss = BatchLoss(lambda model, batch: torch.tanh(model(**batch)).square().mean())
    as_pair = ((batch["input1"], batch["input2"]), torch.zeros(5, 2))
    dense = references.dense_reference(model, loss, batch)
    for other in (
        references.eigsh_reference(model, loss, batch),
        references.dense_reference(model, lambda z, y: (torch.tanh(z) - y).square(), as_pair),
    ):
        assert other.lambda_max == pytest.approx(dense.lambda_max, rel=1e-6)
        assert other.lambda_min == pytest.approx(dense.lambda_min, rel=1e-6)
    with pytest.raises(UsageError, match="pairs of tensors only"):
        references.pyhessian_reference(model, loss, batch)
    with pytest.raises(UsageError, match="pairs of tensors only"):
        references.pyhessian_reference(model, lambda z, y: z.square().mean(), as_pair)


def test_products_are_those_of_the_dense_hessian():
    model, data = convolutional(dtype=torch.float32), images(9)
    exact = convolutional()
    truth = dense_hessian(exact, lambda f: F.cross_entropy(f(data[0]), data[1]))
    product = references.PlainHessian(model, nn.CrossEntropyLoss(), (data[0].float(), data[1]))
    probe = torch.randn(product.size, generator=torch.Generator().manual_seed(0))
    # The copy has the float32 weights, and so the exact Hessian at those.
    torch.testing.assert_close(product(probe), truth @ probe.double(), rtol=1e-4, atol=1e-5)
    values, vectors = torch.linalg.eigh(truth)
    assert product.residual(values[-1].item(), 3 * vectors[:, -1]) < 1e-5
    assert product.products == 2


class TestRefusals:
    def test_too_many_parameters(self):
        with pytest.raises(UsageError, match=r"88 parameters: .*; it is made up to 87"):
            references.dense_reference(convolutional(), nn.CrossEntropyLoss(), images(3), limit=87)

    def test_not_converged(self):
        # 400 eigenvalues equally spaced: the ends stand out by 1/400 of the spectrum's length.
        curvature = torch.linspace(-1, 1, 400, dtype=torch.float64)
        loss = BatchLoss(lambda model, _: 0.5 * (curvature * model.weight.flatten() ** 2).sum())
        model = nn.Linear(20, 20, bias=False).double()
        with pytest.raises(UsageError, match="eigsh did not converge in"):
            references.eigsh_reference(model, loss, torch.ones(1), max_products=1)
        found = references.eigsh_reference(model, loss, torch.ones(1))
        assert found.lambda_min == pytest.approx(-1, rel=1e-6)

    def test_too_few_parameters(self):
        model = nn.Linear(1, 1).double()
        with pytest.raises(UsageError, match="at least three"):
            references.eigsh_reference(model, nn.MSELoss(), (torch.ones(2, 1), torch.ones(2, 1)))

    def test_a_model_that_cannot_be_copied(self):
        class Stuck(nn.Linear):
            def __deepcopy__(self, memo):
                raise TypeError("holds a handle")

        with pytest.raises(UsageError, match=r"no float64 copy of Stuck.*holds a handle"):
            references.dense_reference(
                Stuck(2, 2), nn.CrossEntropyLoss(), (torch.ones(3, 2), torch.tensor([0, 1, 0]))
            )

    def test_pyhessian_and_an_unused_parameter(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
        model.register_parameter("unused", nn.Parameter(torch.ones(2)))
        with pytest.raises(UsageError, match="PyHessian cannot take this model"):
            references.pyhessian_reference(model, nn.CrossEntropyLoss(), images(5))


def test_the_instrument_agrees_with_all_of_them():
    model, data = convolutional(dtype=torch.float32), images(30, dtype=torch.float32)
    operator = HessianOperator(model, nn.CrossEntropyLoss(), [data])
    ends = extreme_eigenvalues(operator, rtol=1e-3, certify=True)
    for tool in TOOLS.values():
        found = tool(model, nn.CrossEntropyLoss(), data)
        for name in ("lambda_max", "lambda_min"):
            value, estimate = getattr(found, name), getattr(ends, name)
            if value is not None:
                assert estimate.lower - found.error <= value <= estimate.upper + found.error
