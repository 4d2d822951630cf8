"""The closed form against a dense float64 Hessian, and against the instrument on its own recipe."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from saddlescope.curvature import HessianOperator, extreme_eigenvalues
from saddlescope.longtail import ImageSamples, load_data
from saddlescope.models import TwoLayerLinear, build_model, origin_eigenvalues


def network(num_classes=10):
    return TwoLayerLinear(num_classes=num_classes, in_channels=1).double().eval()


def dense_eigenvalues(model, inputs, targets):
    shapes = [p.shape for p in model.parameters()]
    names = [name for name, _ in model.named_parameters()]

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        weights = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, weights, inputs), targets)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float(torch.func.grad(loss)(flat).norm()) < 1e-12  # a stationary point
    return torch.linalg.eigvalsh(torch.func.hessian(loss)(flat))


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 7))
def test_the_closed_form_is_the_dense_spectrum(seed, num_classes, samples):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 1, 8, 8, generator=generator, dtype=torch.float64)
    targets = torch.randint(num_classes, (samples,), generator=generator)
    model = network(num_classes)
    truth = dense_eigenvalues(model, inputs, targets)
    closed = origin_eigenvalues(model.features(inputs), targets, num_classes=num_classes)
    repeated = closed.repeat_interleave(model.hidden.out_features)
    padded = torch.cat([repeated, torch.zeros(len(truth) - len(repeated), dtype=torch.float64)])
    torch.testing.assert_close(truth, padded.sort().values, rtol=1e-10, atol=1e-10)


def test_one_class_has_the_length_of_its_mean():
    inputs = torch.randn(
        6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    features = network().features(inputs)
    closed = origin_eigenvalues(features, torch.full((6,), 3), num_classes=10)
    expected = float(features.mean(0).norm()) * math.sqrt(0.9)
    assert float(closed[-1]) == pytest.approx(expected, rel=1e-12)
    assert closed[1:-1].abs().max() < 1e-12 * expected


@pytest.mark.parametrize("subset", ["all", "head", "tail", *range(10)])
def test_the_instrument_agrees_on_every_class_and_group(subset):
    data = load_data("prototypes", imbalance_factor=20)
    model = build_model("two-layer-linear", num_classes=10, in_channels=1, seed=0).eval()
    samples = ImageSamples(data.train, data.groups)
    chosen = data.train.indices_of(data.groups[subset] if isinstance(subset, str) else [subset])
    inputs, targets = samples.inputs(chosen), samples.targets[chosen]
    closed = origin_eigenvalues(model.features(inputs), targets, num_classes=10)
    operator = HessianOperator(model, torch.nn.CrossEntropyLoss(), [(inputs, targets)])
    ends = extreme_eigenvalues(operator, rtol=1e-5)
    assert ends.lambda_max.value == pytest.approx(float(closed[-1]), rel=1e-5)
    assert ends.lambda_min.value == pytest.approx(float(closed[0]), rel=1e-5)
    for end, truth in ((ends.lambda_max, closed[-1]), (ends.lambda_min, closed[0])):
        assert end.lower <= float(truth) <= end.upper
    assert ends.lambda_ratio.value == pytest.approx(1.0, rel=1e-5)
