import torch

from saddlescope.models import resnet34


def parameters_by_hand(num_classes, in_channels):
    """Stem, (3, 4, 6, 3) blocks with BatchNorm, three 1x1 shortcuts, linear layer."""
    total = 9 * in_channels * 64 + 2 * 64
    c_in = 64
    for c_out, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        total += 9 * c_in * c_out + 9 * c_out * c_out + 4 * c_out
        total += (blocks - 1) * (2 * 9 * c_out * c_out + 4 * c_out)
        if c_in != c_out:
            total += c_in * c_out + 2 * c_out
        c_in = c_out
    return total + 512 * num_classes + num_classes


def test_parameter_count_of_the_paper():
    model = resnet34(num_classes=100)
    count = sum(p.numel() for p in model.parameters())
    assert count == parameters_by_hand(100, 3) == 21_328_292
    # torchvision's published count, its 7x7 stem and 1000-class head exchanged for these.
    assert count == 21_797_672 - (49 - 9) * 3 * 64 - 900 * 513


def test_the_last_feature_map_is_4x4_at_32x32():
    model = resnet34(num_classes=5).eval()
    shapes = []
    model.layer4.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert shapes == [(1, 512, 4, 4)]


def test_parameter_names_are_torchvisions():
    names = set(resnet34(num_classes=2).state_dict())
    assert {"conv1.weight", "layer2.0.downsample.1.running_var", "layer3.5.bn2.bias"} <= names
    assert "layer1.0.downsample.0.weight" not in names
