"""ResNet-50 and ResNeXt-50 against the published layout."""

import pytest
import torch

from saddlescope.models import build_model, resnet50, resnext50


def parameters_by_hand(groups, group_width, classes=1000):
    """7x7 stem, (3, 4, 6, 3) bottlenecks, a shortcut a stage, linear layer."""
    total = 49 * 3 * 64 + 2 * 64
    before = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        inner, outer = width * group_width // 64 * groups, 4 * width
        for block in range(blocks):
            total += before * inner + 9 * inner * (inner // groups) + inner * outer
            total += 2 * (inner + inner + outer)
            if block == 0:
                total += before * outer + 2 * outer
            before = outer
    return total + 2048 * classes + classes


@pytest.mark.parametrize(
    ("factory", "groups", "group_width", "published"),
    [(resnet50, 1, 64, 25_557_032), (resnext50, 32, 4, 25_028_904)],
)
def test_parameter_counts_are_the_published_ones(factory, groups, group_width, published):
    count = sum(p.numel() for p in factory(num_classes=1000).parameters())
    assert count == parameters_by_hand(groups, group_width) == published


def test_names_are_torchvisions():
    names = set(resnet50(num_classes=10).state_dict())
    assert {
        "conv1.weight", "bn1.running_mean", "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.bias", "layer3.5.conv3.weight", "layer4.2.bn3.weight", "fc.bias",
    } <= names  # fmt: skip


def test_strides_reduce_by_32_and_every_parameter_has_a_gradient():
    model = build_model("resnet50", num_classes=5, in_channels=3, seed=0)
    features = []
    model.layer4.register_forward_hook(lambda *found: features.append(found[2].shape))
    logits = model(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 5)
    assert features == [(2, 2048, 2, 3)]
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
