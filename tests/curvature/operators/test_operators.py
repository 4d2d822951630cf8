"""The Hessian operator against closed forms and dense Hessians; exact reduction; no trace left."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.curvature import (
    HessianOperator,
    MatrixOperator,
    Objective,
    Programs,
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


def softmax_regression(*, features=6, classes=4, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(features, classes).double()


def softmax_hessian(model, inputs):
    """Closed form: mean over samples of (diag(p) − ppᵀ) ⊗ x̃x̃ᵀ with x̃ = (x, 1).

    Ordered as the operator's w: all weights row by row, then all biases.
    """
    probabilities = torch.softmax(model(inputs), 1).detach()
    extended = torch.cat([inputs, torch.ones(len(inputs), 1).double()], 1)
    middle = torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None]
    full = torch.einsum("nab,ni,nj->aibj", middle, extended, extended) / len(inputs)
    classes, features = model.weight.shape
    order = [a * (features + 1) + i for a in range(classes) for i in range(features)]
    order += [a * (features + 1) + features for a in range(classes)]
    return full.reshape(classes * (features + 1), -1)[order][:, order]


@pytest.mark.parametrize("label", range(4))
def test_per_class_ends_of_softmax_regression_equal_the_closed_form(label):
    model = softmax_regression()
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 4, (200,), generator=generator)
    mine = inputs[targets == label]
    operator = HessianOperator(model, nn.CrossEntropyLoss(), [(mine, targets[targets == label])])
    truth = torch.linalg.eigvalsh(softmax_hessian(model, mine))
    ends = extreme_eigenvalues(operator, rtol=1e-9, atol=0.0)
    assert ends.lambda_max.value == pytest.approx(truth[-1].item(), rel=1e-8)
    # λ_min of this semidefinite matrix is exactly 0: compare on the scale of the matrix.
    assert ends.lambda_min.value == pytest.approx(0.0, abs=1e-8 * truth[-1].item())
    assert ends.verdict == "unresolved"
    # With an L2 term the smallest eigenvalue is the term itself.
    shifted = HessianOperator(
        model, nn.CrossEntropyLoss(), [(mine, targets[targets == label])], weight_decay=0.25
    )
    ends = extreme_eigenvalues(shifted, rtol=1e-9, atol=0.0)
    assert ends.lambda_min.value == pytest.approx(0.25, rel=1e-8)
    assert ends.lambda_max.value == pytest.approx(truth[-1].item() + 0.25, rel=1e-8)


def test_negated_loss_gives_the_closed_form_at_the_other_end():
    model, (inputs, targets) = softmax_regression(), images(50)
    inputs = inputs.reshape(50, 64)[:, :6]
    truth = torch.linalg.eigvalsh(softmax_hessian(model, inputs))
    operator = HessianOperator(
        model, lambda z, y: -F.cross_entropy(z, y), [(inputs, targets)], memory_budget=0
    )
    ends = extreme_eigenvalues(operator, rtol=1e-9, atol=0.0)
    assert ends.lambda_min.value == pytest.approx(-truth[-1].item(), rel=1e-8)


@pytest.mark.parametrize("budget", [None, 0])
def test_convolutional_network_against_the_dense_hessian(budget):
    model, data = convolutional(), images(23)
    truth = dense_hessian(model, lambda f: F.cross_entropy(f(data[0]), data[1]))
    operator = HessianOperator(
        model, nn.CrossEntropyLoss(), split_batches(data, 10, 13), memory_budget=budget
    )
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-9, atol=1e-12)
    ends = extreme_eigenvalues(operator, rtol=1e-7)
    values = torch.linalg.eigvalsh(truth)
    assert values[0] < 0
    assert ends.lambda_max.value == pytest.approx(values[-1].item(), rel=1e-6)
    assert ends.lambda_min.value == pytest.approx(values[0].item(), rel=1e-6)
    assert operator.loss == pytest.approx(F.cross_entropy(model(data[0]), data[1]).item())


CRITERIA = {
    "mean": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([0.1, 3.0, 1.0, 0.5]).double()),
    "weighted-smoothed": nn.CrossEntropyLoss(
        weight=torch.tensor([0.1, 3.0, 1.0, 0.5]).double(), label_smoothing=0.1
    ),
    "ignoring": nn.CrossEntropyLoss(ignore_index=2),
    "function": F.cross_entropy,
    "per-sample": lambda z, y: F.cross_entropy(z, y, reduction="none"),
}


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("sizes", [(23,), (10, 13), (1, 20, 2), (5, 5, 5, 5, 3)])
def test_the_split_into_batches_changes_nothing(name, sizes):
    model, data, criterion = convolutional(), images(23), CRITERIA[name]
    operator = HessianOperator(model, criterion, split_batches(data, *sizes), weight_decay=1e-3)
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(operator.size, generator=generator, dtype=torch.float64)

    def loss(f):
        value = criterion(f(data[0]), data[1])
        return value if value.dim() == 0 else value.mean()

    truth = dense_hessian(model, loss) + 1e-3 * torch.eye(operator.size, dtype=torch.float64)
    torch.testing.assert_close(operator.matvec(vector), truth @ vector, rtol=1e-9, atol=1e-12)
    penalty = 0.5e-3 * sum(p.square().sum().item() for p in model.parameters())
    assert operator.loss == pytest.approx(loss(model).item() + penalty)


def test_batches_that_count_for_nothing_are_left_out():
    model, (inputs, targets) = convolutional(), images(9)
    criterion = nn.CrossEntropyLoss(ignore_index=2)
    nothing = (inputs[:3], torch.full((3,), 2))
    empty = (inputs[:0], targets[:0])
    with_them = HessianOperator(model, criterion, [nothing, (inputs, targets), empty])
    without = HessianOperator(model, criterion, [(inputs, targets)])
    probe = torch.ones(without.size, dtype=torch.float64)
    torch.testing.assert_close(with_them.matvec(probe), without.matvec(probe))


@pytest.mark.parametrize("exponent", [-8, -3, 3, 8])
def test_scaling_the_loss_scales_the_eigenvalues(exponent):
    model, data, factor = convolutional(), images(23), 10.0**exponent
    plain = extreme_eigenvalues(HessianOperator(model, nn.CrossEntropyLoss(), [data]))
    scaled = extreme_eigenvalues(
        HessianOperator(model, lambda z, y: factor * F.cross_entropy(z, y), [data])
    )
    assert scaled.matvecs == plain.matvecs
    assert scaled.lambda_min.value == pytest.approx(factor * plain.lambda_min.value, rel=1e-9)
    assert scaled.lambda_max.value == pytest.approx(factor * plain.lambda_max.value, rel=1e-9)
    assert scaled.lambda_ratio.value == pytest.approx(plain.lambda_ratio.value, rel=1e-9)


@pytest.mark.parametrize("budget", [None, 0])
def test_no_trace_is_left(budget):
    model, data = Restless().eval(), images(10)
    model.inner[0].weight.grad = torch.ones_like(model.inner[0].weight)
    model.inner[6].bias.requires_grad_(False)
    model.inner[3].train()  # p = 0: harmless, and must stay so
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    operator = HessianOperator(model, nn.CrossEntropyLoss(), [data], memory_budget=budget)
    extreme_eigenvalues(operator)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert torch.equal(model.inner[0].weight.grad, torch.ones_like(model.inner[0].weight))
    assert all(p.grad is None for n, p in model.named_parameters() if n != "inner.0.weight")
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["inner.6.bias"]
    assert model.inner[3].training
    assert not model.inner[1].training


def test_no_trace_is_left_after_an_exception():
    model, data = convolutional(), images(10)
    state = torch.get_rng_state()

    def fails(outputs, targets):
        torch.rand(1)
        raise RuntimeError("on purpose")

    with pytest.raises(UsageError, match="RuntimeError: on purpose"):
        HessianOperator(model, fails, [data])
    assert torch.equal(torch.get_rng_state(), state)


class TestRefusals:
    def test_dropout_in_train_mode(self):
        model = convolutional(dropout=0.5)
        model[3].train()
        with pytest.raises(OperatorError, match=r"3 \(Dropout\).*model\.eval\(\)"):
            HessianOperator(model, nn.CrossEntropyLoss(), [images(5)])

    def test_batchnorm_in_train_mode(self):
        with pytest.raises(OperatorError, match=r"BatchNorm2d.*split into batches"):
            HessianOperator(convolutional().train(), nn.CrossEntropyLoss(), [images(5)])

    @pytest.mark.parametrize("budget", [None, 0])
    def test_hidden_dropout(self, budget):
        class Hidden(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = convolutional()

            def forward(self, x):
                return self.inner(x * (torch.rand(x.shape) < 0.5))

        operator = HessianOperator(
            Hidden().eval(), nn.CrossEntropyLoss(), [images(5)], memory_budget=budget
        )
        # The RNG is put back after every pass, so the masks of two passes are equal unless the
        # stream has moved on in between, as it does in any program around this one.
        torch.rand(1)
        with pytest.raises(OperatorError, match="every product would belong to another matrix"):
            extreme_eigenvalues(operator)

    def test_augmented_data_that_cannot_be_kept(self):
        with pytest.raises(OperatorError, match="batch 1 of the data is not what it was"):
            HessianOperator(convolutional(), nn.CrossEntropyLoss(), Augmented(), memory_budget=0)

    def test_nan_weights(self):
        model = convolutional()
        with torch.no_grad():
            model[6].weight[0, 0] = torch.nan
        with pytest.raises(OperatorError, match=r"6\.weight holds NaN"):
            HessianOperator(model, nn.CrossEntropyLoss(), [images(5)])

    def test_nan_inputs(self):
        inputs, targets = images(5)
        inputs[0, 0, 0, 0] = torch.nan
        with pytest.raises(OperatorError, match="NaN or Inf at these weights"):
            HessianOperator(convolutional(), nn.CrossEntropyLoss(), [(inputs, targets)])

    def test_changed_parameters(self):
        model = convolutional()
        operator = HessianOperator(model, nn.CrossEntropyLoss(), [images(5)])
        with torch.no_grad():
            model[0].weight += 1
        with pytest.raises(OperatorError, match="build it anew"):
            operator.matvec(torch.ones(operator.size).double())

    def test_detached_output(self):
        with pytest.raises(OperatorError, match="does not depend on the parameters"):
            HessianOperator(
                convolutional(), lambda z, y: F.cross_entropy(z.detach(), y), [images(5)]
            )

    def test_no_samples(self):
        with pytest.raises(DataError, match="no samples"):
            HessianOperator(convolutional(), nn.CrossEntropyLoss(), [])

    def test_batch_that_is_no_pair(self):
        with pytest.raises(DataError, match=r"pair \(inputs, targets\).*BatchLoss"):
            HessianOperator(convolutional(), nn.CrossEntropyLoss(), [images(5)[0]])

    def test_parameters_that_take_no_part(self):
        class Unused(nn.Module):
            def __init__(self):
                super().__init__()
                self.used, self.unused = nn.Linear(64, 4), nn.Linear(2, 2)

            def forward(self, x):
                return self.used(x.flatten(1))

        with pytest.raises(OperatorError, match="depends on none of the parameters"):
            HessianOperator(
                Unused().double(), nn.CrossEntropyLoss(), [images(5)], parameters="unused.*"
            )

    def test_all_parameters_frozen(self):
        with pytest.raises(UsageError, match="no trainable parameter"):
            HessianOperator(
                convolutional().requires_grad_(False), nn.CrossEntropyLoss(), [images(5)]
            )

    def test_half_precision(self):
        with pytest.raises(UsageError, match="bfloat16"):
            HessianOperator(nn.Linear(2, 2).bfloat16(), nn.CrossEntropyLoss(), [])

    def test_mixed_dtypes(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
        with pytest.raises(UsageError, match=r"several dtypes.*float32.*float64"):
            HessianOperator(model, nn.CrossEntropyLoss(), [])

    def test_vector_of_wrong_size(self):
        operator = HessianOperator(convolutional(), nn.CrossEntropyLoss(), [images(5)])
        with pytest.raises(UsageError, match="operator of size"):
            operator.matvec(torch.ones(3).double())

    def test_matrix_that_is_not_square(self):
        with pytest.raises(UsageError, match="square"):
            MatrixOperator(torch.ones(2, 3))


def test_parameters_by_name_pattern_give_a_block_of_the_hessian():
    model, data = convolutional(), images(9)
    truth = dense_hessian(model, lambda f: F.cross_entropy(f(data[0]), data[1]))
    operator = HessianOperator(model, nn.CrossEntropyLoss(), [data], parameters="6.*")
    torch.testing.assert_close(
        dense_matrix(operator), truth[-operator.size :, -operator.size :], rtol=1e-9, atol=1e-12
    )


def test_float32_noise_is_measured_and_contains_the_float64_answer():
    model, data = convolutional(), images(23)
    exact = extreme_eigenvalues(HessianOperator(model, nn.CrossEntropyLoss(), [data]), rtol=1e-9)
    single = extreme_eigenvalues(
        HessianOperator(
            convolutional(dtype=torch.float32), nn.CrossEntropyLoss(), [(data[0].float(), data[1])]
        ),
        rtol=1e-4,
    )
    assert 1e-9 < single.noise < 1e-4 * single.lambda_max.value
    for end in ("lambda_max", "lambda_min"):
        estimate = getattr(single, end)
        assert estimate.lower <= getattr(exact, end).value <= estimate.upper


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("limit", [10, 2048])
def test_noise_seen_on_some_samples_stands_for_all(monkeypatch, limit, reduction):
    """Never below the whole's own error, and above it by no more than n over their number."""
    from saddlescope.curvature.products import strategy

    monkeypatch.setattr(strategy, "BRANCHES_COUNT_UP_TO", limit)
    model, data = convolutional(dtype=torch.float32), images(96, dtype=torch.float32)
    criterion = nn.CrossEntropyLoss(reduction=reduction)
    programs = None if limit == 10 else Programs("traced")
    operator = HessianOperator(model, criterion, [data], programs=programs)
    for seed in range(5):
        vector = torch.randn(operator.size, generator=torch.Generator().manual_seed(seed))
        product = operator.matvec(vector)
        truth = float((product.double() - operator.reference().matvec(vector.double())).norm())
        found = operator.product_error(vector, product)
        assert truth <= found <= 13 * 3 * truth


def test_cost_is_counted_by_operations():
    model, data = convolutional(), images(23)
    operator = HessianOperator(model, nn.CrossEntropyLoss(), [data])
    ends = extreme_eigenvalues(operator)
    # The derivatives are held to differences on 2 samples, at the start and at the end: a graph, a
    # product and two gradients.
    guard = 2 * 5 * 2 / 23
    assert operator.gradient_cost == pytest.approx(1 + 1 / 3 + 2 * ends.matvecs + guard)
    streamed = HessianOperator(model, nn.CrossEntropyLoss(), [data], memory_budget=0)
    streamed.matvec(torch.ones(streamed.size).double())
    assert streamed.gradient_cost == pytest.approx(1 + 3)


def test_value_and_gradient_are_those_of_the_operator():
    model, data = convolutional(), images(11)
    before = [p.grad for p in model.parameters()]
    for batches in (split_batches(data, 11), split_batches(data, 4, 4, 3)):
        objective = Objective(model, nn.CrossEntropyLoss(), batches, weight_decay=0.3)
        value, gradient = objective.value_and_gradient()
        H = HessianOperator.from_objective(objective)
        assert value == pytest.approx(H.loss, rel=1e-14)
        torch.testing.assert_close(gradient, H.gradient, rtol=1e-12, atol=1e-15)
    assert [p.grad for p in model.parameters()] == before
