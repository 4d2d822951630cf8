"""Mistakes that people make, each answered by one line that names the cause; or that just work."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.curvature import (
    BatchLoss,
    GaussNewtonOperator,
    HessianOperator,
    class_spectra,
    extreme_eigenvalues,
    top_eigenpairs,
)
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import DataError, OperatorError, SaddlescopeError, UsageError

CRITERION = nn.CrossEntropyLoss()


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 6, generator=generator), torch.arange(12) % 3


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


class Wrapped(nn.Module):
    """A network whose outputs are a tuple or a mapping."""

    def __init__(self, wrap):
        super().__init__()
        self.inner, self.wrap = net(), wrap

    def forward(self, x):
        return self.wrap(self.inner(x))


class Gate(nn.Module):
    """Squeeze and excitation as in MobileNetV3, hardsigmoid called as a function."""

    def __init__(self):
        super().__init__()
        self.squeeze, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(x * F.hardsigmoid(self.squeeze(x)))


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.first, self.gate = nn.Linear(6, 6), inner

    def forward(self, x):
        return self.gate(self.first(x))


class Distances(nn.Module):
    def __init__(self):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(3, 6))

    def forward(self, x):
        return -torch.cdist(x, self.prototypes)


def measured(*arguments, **options):
    return extreme_eigenvalues(HessianOperator(*arguments, **options))


IDS = torch.arange(24).reshape(12, 2) % 9


@pytest.mark.parametrize("operator", [HessianOperator, GaussNewtonOperator])
@pytest.mark.parametrize(
    ("model", "inputs", "layer", "operation"),
    [
        (
            lambda: nn.Sequential(nn.Linear(6, 4), nn.Hardsigmoid(), nn.Linear(4, 3)),
            None, r"1 \(Hardsigmoid\)", "hardsigmoid",
        ),
        (Gate, None, r"the model \(Gate\)", "hardsigmoid"),
        (lambda: Outer(Gate()), None, r"gate \(Gate\)", "hardsigmoid"),
        (Distances, None, r"the model \(Distances\)", "cdist"),
        (
            lambda: nn.Sequential(nn.EmbeddingBag(9, 5), nn.Tanh(), nn.Linear(5, 3)),
            IDS, r"0 \(EmbeddingBag\)", "embedding_bag",
        ),
    ],
)  # fmt: skip
def test_a_layer_without_a_second_derivative_is_named(operator, model, inputs, layer, operation):
    x, y = data()
    model = model().eval()
    with pytest.raises(OperatorError, match=rf"{layer} has no second derivative .*\({operation}"):
        extreme_eigenvalues(operator(model, CRITERION, [(x if inputs is None else inputs, y)]))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_loss_without_a_second_derivative_is_named():
    with pytest.raises(OperatorError, match=r"the loss \(MultiMarginLoss\) has no second"):
        measured(net(), nn.MultiMarginLoss(p=2), [data()])


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def test_a_function_marked_once_differentiable_is_refused():
    model = Wrapped(Twice.apply)
    with pytest.raises(OperatorError):
        measured(model, CRITERION, [data()])


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        (lambda x, y: (Wrapped(lambda z: (z, z)), CRITERION, (x, y)), UsageError,
         r"returns \(tuple of 2: float32 \(12, 3\).*outputs\[0\]"),
        (lambda x, y: (Wrapped(lambda z: {"logits": z}), CRITERION, (x, y)), UsageError,
         r"returns \(dict of logits: float32 \(12, 3\)\).*outputs\['logits'\]"),
        (lambda x, y: (net(), CRITERION, (x, y + 1)), DataError,
         "class number 3 in the targets, but the model has 3 outputs, for classes 0 to 2"),
        (lambda x, y: (net(), CRITERION, (x, y - 1)), DataError, "class number -1"),
        (lambda x, y: (net(), CRITERION, (x.double(), y)), DataError,
         "inputs are float64 and the parameters of Sequential float32"),
        (lambda x, y: (net().double(), CRITERION, (x, y)), DataError, "inputs are float32 and"),
        (lambda x, y: (net(), CRITERION, (x[:, :5], y)), UsageError,
         r"Sequential cannot be called .*float32 \(12, 5\).*cannot be multiplied"),
        (lambda x, y: (net(), CRITERION, (x.numpy(), y)), UsageError, r"called .*\(ndarray\)"),
        (lambda x, y: (net(), CRITERION, (x, None)), UsageError,
         r"targets \(NoneType\).*BatchLoss"),
        (lambda x, y: (net(), lambda o, t: (F.cross_entropy(o, t), o), (x, y)), UsageError,
         "returned tuple of 2: .*expected a tensor"),
        (lambda x, y: (net(), lambda o, t: F.cross_entropy(o, t).item(), (x, y)), UsageError,
         "returned float: expected a tensor"),
        (lambda x, y: (net(), BatchLoss(lambda m, b: m(b["z"]).mean()), {"x": x}), UsageError,
         r"BatchLoss failed .*dict of x: float32 \(12, 6\).*KeyError: 'z'"),
        (lambda x, y: (net(), CRITERION, {"x": x, "y": y}), DataError, "must be a pair"),
    ],
)  # fmt: skip
def test_one_line_for_each_mistake(case, error, message):
    model, criterion, batch = case(*data())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message) as caught:
        measured(model, criterion, [batch])
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_error_of_our_own_is_not_explained_away(monkeypatch):
    operator = HessianOperator(net(), CRITERION, [data()])
    monkeypatch.setattr(operator.products, "_product", lambda vector: vector.no_such_thing)
    with pytest.raises(AttributeError, match="no_such_thing"):
        operator.matvec(torch.ones(operator.size))


class TestSimplyWorking:
    def truth(self, **options):
        x, y = data()
        matrix = dense_matrix(
            HessianOperator(net().double(), CRITERION, [(x.double(), y)], **options)
        )
        return np.linalg.eigvalsh(matrix.numpy())

    def check(self, model, criterion=CRITERION, batches=None, *, truth=None, **options):
        ends = extreme_eigenvalues(
            HessianOperator(model, criterion, [data()] if batches is None else batches, **options),
            certify=True,
        )
        truth = self.truth() if truth is None else truth
        assert ends.lambda_min.lower <= truth[0] <= ends.lambda_min.upper
        assert ends.lambda_max.lower <= truth[-1] <= ends.lambda_max.upper

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    @pytest.mark.parametrize("trained", [False, True])
    @pytest.mark.parametrize("part", ["whole", "layer", "function"])
    def test_a_compiled_model_is_measured_as_it_was_written(self, backend, trained, part):
        model, (x, y) = net(), data()
        compiled = model
        if part == "whole":
            compiled = torch.compile(model, backend=backend)
        elif part == "layer":
            model[0] = torch.compile(model[0], backend=backend)
        criterion = F.cross_entropy
        if part == "function":
            criterion = torch.compile(F.cross_entropy, backend=backend)
        if trained:
            with warnings.catch_warnings():  # dynamo looks at .grad of what is no leaf
                warnings.simplefilter("ignore")
                criterion(compiled(x), y).backward()
            model.zero_grad()
        self.check(compiled, criterion)
        if part == "whole":  # the names are those of the model as it was written
            self.check(compiled, parameters="2.weight", truth=self.truth(parameters="2.weight"))
        torch.compiler.reset()

    def test_parameters_by_themselves(self):
        model = net()
        self.check(model, parameters=model.parameters())
        wanted = self.truth(parameters=["2.weight", "2.bias"])
        self.check(model, parameters=list(model[2].parameters()), truth=wanted)
        self.check(model, parameters=["2.weight", model[2].bias], truth=wanted)
        self.check(model, parameters=model[2].weight, truth=self.truth(parameters="2.weight"))
        table = class_spectra(
            model, CRITERION, data(), classes="none", parameters=list(model[2].parameters())
        )
        assert table["parameters"].tolist() == ["2.weight,2.bias"]
        with pytest.raises(UsageError, match=r"tensor of shape \(2,\) that is no parameter"):
            HessianOperator(model, CRITERION, [data()], parameters=[torch.ones(2)])
        with pytest.raises(UsageError, match="holds a int"):
            HessianOperator(model, CRITERION, [data()], parameters=[2])

    def test_inference_mode(self):
        with torch.inference_mode():
            model, (x, y) = net(), data()
            with pytest.raises(UsageError, match=r"called under torch.inference_mode\(\)"):
                HessianOperator(net(), CRITERION, [(x, y)])
        with pytest.raises(UsageError, match=r"parameter 0.weight was made under .*deepcopy"):
            HessianOperator(model, CRITERION, [(x, y)])
        self.check(copy.deepcopy(model), CRITERION, [(x, y)])  # inputs of inference mode work
        self.check(
            copy.deepcopy(model), BatchLoss(lambda m, b: F.cross_entropy(m(b[0]), b[1])), [(x, y)]
        )
        with torch.no_grad():
            self.check(net())

    def test_targets_that_are_none_where_the_criterion_takes_none(self):
        x, _ = data()
        operator = HessianOperator(net(), lambda outputs, _: outputs.square().mean(), [(x, None)])
        assert operator.objective.n == 12

    def test_stored_iterators(self):
        class Stored:
            def __init__(self):
                self.batches = iter([data()])

            def __iter__(self):
                return self.batches

        for batches in (Stored(), iter([data()]), zip(*([part] for part in data()), strict=True)):
            self.check(net(), CRITERION, batches)


def test_top_eigenpairs_checks_the_derivatives_as_the_ends_do():
    class Detached(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.kept = x  # not by save_for_backward: no second derivative, and no error
            return x.pow(3)

        @staticmethod
        def backward(ctx, grad):
            return 3 * ctx.kept.detach() ** 2 * grad

    with pytest.raises(SaddlescopeError, match="second derivative"):
        top_eigenpairs(HessianOperator(Wrapped(Detached.apply), CRITERION, [data()]), k=2)
