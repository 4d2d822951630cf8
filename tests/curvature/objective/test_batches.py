"""Losses over batches of any kind against dense Hessians, and exact over any split."""

from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from saddlescope import BatchLoss
from saddlescope.curvature import (
    GaussNewtonOperator,
    HessianOperator,
    Programs,
    class_spectra,
    extreme_eigenvalues,
    measured_curvature,
)
from saddlescope.curvature.objective.batches import batch_length, map_tensors
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import DataError, OperatorError, UsageError
from tests.curvature.networks import convolutional, dense_hessian, images

VOCABULARY, LENGTH = 7, 5


class LanguageModel(nn.Module):
    """Causal, with the embedding tied to the output, called as Hugging Face models are."""

    def __init__(self):
        super().__init__()
        self.embedding, self.qkv = nn.Embedding(VOCABULARY, 4), nn.Linear(4, 12)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, input_ids, labels=None):
        x = self.embedding(input_ids)
        q, k, v = (part.unsqueeze(1) for part in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)
        logits = self.head(x)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return SimpleNamespace(loss=loss, logits=logits)


def tokens(n=8):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (n, LENGTH), generator=generator)
    labels = ids.clone()
    labels[1::2, 3:] = -100  # padding: not every sequence has the same number of counted tokens
    return {"input_ids": ids, "labels": labels}


def counted(batch):
    return (batch["labels"][:, 1:] != -100).sum()


LANGUAGE = BatchLoss(lambda model, batch: model(**batch).loss, weight=counted)


def cut(batch, *sizes):
    parts = {key: value.split(list(sizes)) for key, value in batch.items()}
    return [dict(zip(parts, some, strict=True)) for some in zip(*parts.values(), strict=True)]


@pytest.mark.parametrize("container", [dict, UserDict])
@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("sizes", [(8,), (3, 5), (1, 4, 3)])
@pytest.mark.parametrize("strategy", ["double-backward", "traced"])
def test_language_model_with_padding_and_tied_weights(strategy, sizes, budget, container):
    torch.manual_seed(0)
    model, batch = LanguageModel().double().eval(), tokens()
    operator = HessianOperator(
        model, LANGUAGE, [container(part) for part in cut(batch, *sizes)],
        memory_budget=budget, programs=Programs(strategy),
    )  # fmt: skip
    assert operator.size == 4 * VOCABULARY + 60 + 8
    assert operator.objective.n == 8
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        truth = dense_hessian(model, lambda f: f(**batch).loss)
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-9, atol=1e-12)
    assert operator.loss == pytest.approx(model(**batch).loss.item())


def test_float32_has_a_float64_reference_that_is_another_model():
    torch.manual_seed(0)
    model, batch = LanguageModel().eval(), tokens()
    operator = HessianOperator(model, LANGUAGE, cut(batch, 3, 5))
    exact = HessianOperator(operator.objective.double().model, LANGUAGE, [batch])
    assert exact.dtype == torch.float64
    probe = torch.ones(exact.size, dtype=torch.float64)
    torch.testing.assert_close(operator.reference().matvec(probe), exact.matvec(probe))
    ends, truth = (extreme_eigenvalues(h, rtol=1e-4) for h in (operator, exact))
    assert 0 < ends.noise < 1e-4 * ends.lambda_max.value
    for end in ("lambda_max", "lambda_min"):
        estimate = getattr(ends, end)
        assert estimate.lower <= getattr(truth, end).value <= estimate.upper


def test_autoencoder_with_batchnorm_folded():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Tanh(), nn.Conv2d(2, 2, 3, padding=1)
    ).double()
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2.0)
    model.eval()
    inputs = torch.randn(6, 2, 5, 5).double()
    loss = BatchLoss(lambda model, x: (model(x) - x).view(len(x), -1).square().mean())
    operator = HessianOperator(model, loss, inputs.split([2, 4]))
    assert operator.objective.folding.folded == {0}
    truth = dense_hessian(model, lambda f: (f(inputs) - inputs).square().mean())
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-9, atol=1e-12)
    # In float32 as well the batch's layout is the user's.
    single = HessianOperator(model.float(), loss, inputs.float().split([2, 4]))
    assert single.loss == pytest.approx(operator.loss, rel=1e-5)


def residual(model, batch):
    """u'' + u = 0 at the points, u = 1 at 0: second derivatives in the inputs."""
    x = batch["points"]
    u = model(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return (bend + u).square().mean() + (model(torch.zeros_like(x[:1])) - 1).square().mean()


@pytest.mark.parametrize("budget", [None, 0])
def test_physics_informed_loss(budget):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    points = torch.linspace(0.0, 1.0, 9, dtype=torch.float64).unsqueeze(1).requires_grad_()
    batches = [{"points": points[:4].detach().requires_grad_()}, {"points": points[4:].detach()}]
    batches[1]["points"].requires_grad_()
    operator = HessianOperator(model, BatchLoss(residual), batches, memory_budget=budget)
    truth = dense_hessian(model, lambda f: residual(f, {"points": points}))
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-8, atol=1e-11)
    # Also where only the loss is wanted, and no gradient left on the user's points.
    ends = extreme_eigenvalues(operator, rtol=1e-6, eigenvectors=True)
    found = measured_curvature(operator.objective, ends.eigenvectors[0])
    assert abs(found.value - ends.lambda_max.value) <= found.error + ends.noise
    assert all(batch["points"].grad is None for batch in batches)
    single = HessianOperator(model.float(), BatchLoss(residual), map_tensors(batches, cut_float))
    assert single.reference().loss == pytest.approx(operator.loss, rel=1e-6)


def cut_float(tensor):
    return tensor.detach().float().requires_grad_()


def test_no_trace_is_left_on_the_batch_or_the_model():
    def marks(model, batch):
        batch.requires_grad_()
        torch.rand(1)
        return model(batch).square().mean()

    model, (inputs, _) = convolutional(), images(4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    extreme_eigenvalues(HessianOperator(model, BatchLoss(marks), [inputs]))
    assert not inputs.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_tables_by_class():
    model, data = convolutional(), images(30)
    loss = BatchLoss(lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    options = {"classes": [0, 1], "rtol": 1e-7}
    table, plain = (class_spectra(model, c, data, **options) for c in (loss, F.cross_entropy))
    for column in ("lambda_max", "lambda_min", "lambda_min_lower", "gradient_norm"):
        assert table[column].to_numpy() == pytest.approx(plain[column].to_numpy(), rel=1e-6)


def test_sums_and_batches_that_count_for_nothing():
    model, (inputs, _) = convolutional(), images(6)
    total = BatchLoss(lambda model, x: model(x).square().sum())
    mean = BatchLoss(lambda model, x: model(x).square().mean())
    summed = HessianOperator(model, total, inputs.split([2, 4]), reduction="sum")
    averaged = HessianOperator(model, mean, [inputs[:0], *inputs.split([2, 4])])
    probe = torch.ones(summed.size, dtype=torch.float64)
    torch.testing.assert_close(summed.matvec(probe), 24 * averaged.matvec(probe))


@dataclass(frozen=True)
class Graph:
    name: str
    nodes: Tensor


def test_containers():
    point = namedtuple("point", "x y")
    batch = {
        "a": [torch.ones(()), point(torch.ones(3, 2), None)],
        "b": Graph("g", torch.ones(4)),
        "c": "text",
        "d": UserDict(e=torch.ones(5)),
    }
    doubled = map_tensors(batch, lambda t: 2 * t)
    assert doubled["a"][1].x.sum() == 12
    assert doubled["a"][1].y is None
    assert type(doubled["b"]) is Graph
    assert doubled["b"].name == "g"
    assert doubled["b"].nodes.sum() == 8
    assert doubled["d"]["e"].sum() == 10
    assert batch["d"]["e"].sum() == 5
    assert batch_length(batch) == 3
    assert batch_length({"b": batch["b"]}) == 4
    assert batch_length("text") is None


class TestRefusals:
    def test_a_data_set_in_the_place_of_batches(self):
        data = TensorDataset(torch.randn(8, 10), torch.arange(8) % 3)
        with pytest.raises(UsageError, match=r"\(TensorDataset\), whose items are samples"):
            HessianOperator(nn.Linear(10, 3), nn.CrossEntropyLoss(), data)
        HessianOperator(nn.Linear(10, 3), nn.CrossEntropyLoss(), DataLoader(data, 4))

    def test_the_class_of_a_criterion(self):
        with pytest.raises(UsageError, match="is the class CrossEntropyLoss: hand over one of it"):
            HessianOperator(convolutional(), nn.CrossEntropyLoss, [images(4)])

    def test_the_function_calls_another_model(self):
        mine, data = convolutional(), images(4)[0]
        closed_over = BatchLoss(lambda _, x: mine(x).square().mean())
        with pytest.raises(OperatorError, match="another model than the one it is given"):
            HessianOperator(convolutional(seed=1), closed_over, [data])

    def test_the_function_holds_its_model_and_so_never_sees_the_float64_copy(self):
        mine = LanguageModel().eval()
        closed_over = BatchLoss(lambda _, batch: mine(**batch).loss, weight=counted)
        operator = HessianOperator(mine, closed_over, [tokens()])
        with pytest.raises(OperatorError, match="another model than the one it is given"):
            operator.reference()

    def test_no_mean_is_returned(self):
        loss = BatchLoss(lambda model, x: model(x))
        with pytest.raises(UsageError, match=r"returned shape \(4, 4\): expected the mean loss"):
            HessianOperator(convolutional(), loss, [images(4)[0]])
        with pytest.raises(UsageError, match="returned NoneType"):
            HessianOperator(convolutional(), BatchLoss(lambda model, x: None), [images(4)[0]])

    def test_no_tensor_to_count(self):
        model = convolutional()
        one = SimpleNamespace(x=images(4)[0])
        function = lambda model, batch: model(batch.x).square().mean()  # noqa: E731
        with pytest.raises(UsageError, match=r"type SimpleNamespace.*weight="):
            HessianOperator(model, BatchLoss(function), [one])
        operator = HessianOperator(model, BatchLoss(function, weight=lambda b: len(b.x)), [one])
        assert operator.loss == pytest.approx(model(one.x).square().mean().item())

    @pytest.mark.parametrize("weight", [-1.0, float("nan")])
    def test_weights_that_are_none(self, weight):
        loss = BatchLoss(lambda model, x: model(x).square().mean(), weight=lambda _: weight)
        with pytest.raises(UsageError, match="expected a number >= 0"):
            HessianOperator(convolutional(), loss, [images(4)[0]])

    def test_all_weights_zero(self):
        loss = BatchLoss(lambda model, x: model(x).square().mean(), weight=lambda _: 0)
        with pytest.raises(DataError, match="sum to zero"):
            HessianOperator(convolutional(), loss, [images(4)[0]])

    def test_gauss_newton(self):
        loss = BatchLoss(lambda model, x: model(x).square().mean())
        with pytest.raises(UsageError, match="not a BatchLoss"):
            GaussNewtonOperator(convolutional(), loss, [images(4)[0]])

    def test_what_holds_float32_tensors_of_its_own_has_no_reference(self):
        mix = torch.randn(4, 3)
        loss = BatchLoss(lambda model, x: (model(x) @ mix).square().mean())
        model = convolutional(dtype=torch.float32)
        operator = HessianOperator(model, loss, [images(4, dtype=torch.float32)[0]])
        assert operator.reference() is None
        assert "no float64 reference" in " ".join(extreme_eigenvalues(operator).notes)
