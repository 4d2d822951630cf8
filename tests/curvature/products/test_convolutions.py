"""A convolution differentiated our way is torch's at every order, and takes no large kernel."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from saddlescope.curvature import HessianOperator, Programs
from saddlescope.curvature.products import convolutions, unrolled
from saddlescope.curvature.products.convolutions import TwiceDifferentiable, convolution
from tests.curvature.networks import images

CALLS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@st.composite
def cases(draw):
    """(dimensions, shapes, options) of a valid convolution."""
    dimensions = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))
    channels, filters = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))

    def each(strategy):
        return tuple(draw(strategy) for _ in range(dimensions))

    kernel, dilation = each(st.integers(1, 3)), each(st.sampled_from([1, 1, 2]))
    options = {
        "stride": draw(st.sampled_from([1, each(st.integers(1, 2))])),
        "padding": draw(st.sampled_from([0, 1, each(st.integers(0, 2)), "same", "valid"])),
        "dilation": dilation,
        "groups": groups,
    }
    if options["padding"] == "same":
        options["stride"], kernel = 1, tuple(2 * (k // 2) + 1 for k in kernel)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    lengths = [r + draw(st.integers(0, 3)) for r in reach]
    n = draw(st.integers(1, 5))
    return dimensions, (n, channels, *lengths), (filters, channels // groups, *kernel), options


def derivatives(call, inputs, weight, bias, *, seed):
    """Value, gradients, Hessian-vector products and a third derivative of a nonlinear function."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [t.clone().requires_grad_() for t in (inputs, weight, bias) if t is not None]
    value = (torch.tanh(call(*tensors)) ** 2).sum()
    found, current = [value], value
    for _ in range(3):
        grads = torch.autograd.grad(current, tensors, create_graph=True)
        found += grads
        directions = [torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in grads]
        current = sum((g * v).sum() for g, v in zip(grads, directions, strict=True))
    return [f.detach() for f in found]


@given(
    case=cases(), seed=st.integers(0, 99), biased=st.booleans(), tiny=st.booleans(),
    many=st.sampled_from([0.0, float("inf")]),
)  # fmt: skip
def test_every_derivative_is_that_of_torch(case, seed, biased, tiny, many):
    dimensions, shape, kernel, options = case
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(kernel[0], generator=generator, dtype=torch.float64) if biased else None

    def call(*tensors):
        return CALLS[dimensions](*tensors, **options)

    truth = derivatives(call, inputs, weight, bias, seed=seed)
    with pytest.MonkeyPatch.context() as patch, TwiceDifferentiable():
        if tiny:
            patch.setattr(convolutions, "PIECE_BYTES", 1)
        patch.setattr(unrolled, "MANY", many)
        found = derivatives(call, inputs, weight, bias, seed=seed)
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("learned", [("weight",), ("bias",), ("input",), ("weight", "bias")])
def test_what_needs_no_gradient_gets_none(learned):
    torch.manual_seed(0)
    given_to = {
        "input": torch.randn(2, 1, 4, 4).double(),
        "weight": torch.randn(2, 1, 3, 3).double(),
        "bias": torch.randn(2).double(),
    }

    def products():
        at = {name: t.clone().requires_grad_(name in learned) for name, t in given_to.items()}
        chosen = [at[name] for name in learned]
        grads = torch.autograd.grad(torch.tanh(torch.conv2d(**at)).sum(), chosen, create_graph=True)
        return [*grads, *torch.autograd.grad(sum((g**2).sum() for g in grads), chosen)]

    truth = products()
    with TwiceDifferentiable():
        found = products()
    torch.testing.assert_close(found, truth)


class Kernels(TorchDispatchMode):
    """Largest kernel, and most samples, of any convolution."""

    def __init__(self):
        super().__init__()
        self.largest = self.samples = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        shapes = {
            torch.ops.aten.convolution.default: (args[0:1], args[1:2]),
            torch.ops.aten.convolution_backward.default: (args[1:2], args[2:3]),
        }.get(func)
        if shapes:
            self.samples = max(self.samples, len(shapes[0][0]))
            self.largest = max(self.largest, shapes[1][0].shape[-1])
        return func(*args, **(kwargs or {}))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(),
        nn.Conv2d(3, 2, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(128, 4),
    ).eval()  # fmt: skip


def test_a_product_takes_no_kernel_as_large_as_the_image():
    operator = HessianOperator(network(), nn.CrossEntropyLoss(), [images(6, dtype=torch.float32)])
    with Kernels() as seen:
        operator.matvec(torch.ones(operator.size))
    assert seen.largest == 3


def test_float64_convolutions_go_in_pieces_of_equal_result(monkeypatch):
    model, data = network().double(), [images(6)]
    whole = HessianOperator(model, nn.CrossEntropyLoss(), data)
    v = torch.linspace(-1, 1, whole.size).double()
    monkeypatch.setattr(convolutions, "PIECE_BYTES", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with Kernels() as seen:
        pieces = HessianOperator(model, nn.CrossEntropyLoss(), data)
        product = pieces.matvec(v)
    assert seen.samples == 2
    torch.testing.assert_close(product, whole.matvec(v))


def test_the_float64_forward_pass_of_a_traced_product_goes_in_pieces(monkeypatch):
    model, data = network(), [images(6, dtype=torch.float32)]
    programs = Programs("traced")
    whole = HessianOperator(model, nn.CrossEntropyLoss(), data, programs=programs)
    v = torch.linspace(-1, 1, whole.size)
    assert whole.products.exact
    monkeypatch.setattr(convolutions, "PIECE_BYTES", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    taken = []
    apply = torch.ops.aten.convolution.default

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is apply and args[0].dtype == torch.float64:
                taken.append(len(args[0]))
            return func(*args, **(kwargs or {}))

    with Counted():
        pieces = HessianOperator(model, nn.CrossEntropyLoss(), data, programs=programs)
    assert taken
    assert max(taken) == 2
    torch.testing.assert_close(pieces.matvec(v), whole.matvec(v))


@pytest.mark.parametrize(
    ("filters", "length", "options", "dtype", "product"),
    [
        (64, 4, {}, torch.float64, True),
        (63, 4, {}, torch.float64, False),
        (64, 8, {}, torch.float64, False),
        (64, 8, {"stride": 2}, torch.float64, True),
        (64, 4, {"dilation": 2, "padding": 2}, torch.float64, False),
        (64, 4, {"groups": 2}, torch.float64, False),
        (64, 4, {}, torch.float32, False),
    ],
)
def test_small_maps_of_many_channels_are_one_matrix_product(
    filters, length, options, dtype, product
):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 2, length, length, generator=generator, dtype=dtype)
    groups = options.get("groups", 1)
    weight = torch.randn(filters, 2 // groups, 3, 3, generator=generator, dtype=dtype)
    options = {"padding": 1} | options
    with Kernels() as seen, TwiceDifferentiable():
        found = torch.conv2d(inputs, weight, **options)
    assert (seen.samples == 0) == product
    assert found.is_contiguous()

    def call(*tensors):
        return torch.conv2d(*tensors, **options)

    truth = derivatives(call, inputs, weight, None, seed=0)
    with TwiceDifferentiable():
        found = derivatives(call, inputs, weight, None, seed=0)
    close = {} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other, **close)


def test_a_transposed_convolution_in_a_recording_stays_one():
    torch.manual_seed(0)
    inputs, weight = torch.randn(3, 64, 2, 2).double(), torch.randn(64, 1, 2, 2).double()
    rest = (None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1)
    torch.testing.assert_close(
        convolution(inputs, weight, *rest), torch.ops.aten.convolution(inputs, weight, *rest)
    )


def test_float32_is_never_cut(monkeypatch):
    monkeypatch.setattr(convolutions, "PIECE_BYTES", 1)
    with Kernels() as seen:
        convolution(torch.ones(6, 1, 4, 4), torch.ones(1, 1, 3, 3), None, [1, 1], [1, 1], [1, 1],
                    False, [0, 0], 1)  # fmt: skip
    assert seen.samples == 6


def test_one_sample_without_a_batch_is_left_to_torch():
    x, w = torch.randn(1, 5, 5), torch.randn(2, 1, 3, 3)
    with TwiceDifferentiable():
        assert torch.equal(torch.conv2d(x, w), F.conv2d(x, w))


def test_transforms_inside_a_loss_are_left_to_torch():
    x, w = torch.randn(3, 1, 1, 5, 5).double(), torch.randn(2, 1, 3, 3).double()

    def each(image):
        return torch.func.grad(lambda at: torch.tanh(torch.conv2d(image, at)).sum())(w)

    truth = torch.func.vmap(each)(x)
    with TwiceDifferentiable():
        torch.testing.assert_close(torch.func.vmap(each)(x), truth)
