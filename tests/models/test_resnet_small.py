import pytest
import torch

from saddlescope.models import resnet8, resnet20, resnet32


def parameters_by_hand(n, *, num_classes, in_channels):
    """Convolution weights, two BatchNorm numbers a channel, and the linear layer."""
    stem = 9 * in_channels * 16 + 2 * 16
    total = stem
    for c_in, c_out in ((16, 16), (16, 32), (32, 64)):
        first = 9 * c_in * c_out + 9 * c_out * c_out + 4 * c_out
        rest = 2 * 9 * c_out * c_out + 4 * c_out
        total += first + (n - 1) * rest
    return total + 64 * num_classes + num_classes


@pytest.mark.parametrize(
    ("build", "n", "num_classes", "in_channels", "expected"),
    [
        (resnet8, 1, 10, 1, 75_002),
        (resnet20, 3, 10, 3, 269_722),
        (resnet20, 3, 100, 3, 275_572),
        (resnet32, 5, 10, 3, 464_154),
        (resnet32, 5, 100, 3, 470_004),
    ],
)
def test_parameter_count(build, n, num_classes, in_channels, expected):
    model = build(num_classes=num_classes, in_channels=in_channels)
    count = sum(p.numel() for p in model.parameters())
    assert count == parameters_by_hand(n, num_classes=num_classes, in_channels=in_channels)
    assert count == expected


def test_layer_count_is_six_n_plus_two():
    for build, depth in ((resnet8, 8), (resnet32, 32)):
        weights = [p for p in build(num_classes=10).parameters() if p.ndim > 1]
        assert len(weights) == depth


@pytest.mark.parametrize(("build", "shape"), [(resnet8, (2, 1, 8, 8)), (resnet32, (2, 3, 32, 32))])
def test_logits_have_one_column_a_class(build, shape):
    assert build(num_classes=7)(torch.zeros(shape)).shape == (2, 7)


def test_relu_is_not_in_place():
    model = resnet8(num_classes=3)
    assert not any(getattr(m, "inplace", False) for m in model.modules())
