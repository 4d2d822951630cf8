import pytest
import torch

from saddlescope.models.resnet import BasicBlock, SubsamplePad, he_initialise


def test_subsample_pad_keeps_every_second_pixel_between_zero_channels():
    x = torch.arange(2 * 5 * 5, dtype=torch.float32).reshape(1, 2, 5, 5)
    y = SubsamplePad(2, 2)(x)
    assert y.shape == (1, 4, 3, 3)
    torch.testing.assert_close(y[:, 1:3], x[:, :, ::2, ::2], rtol=0, atol=0)
    assert not y[:, 0].any()
    assert not y[:, 3].any()


@pytest.mark.parametrize("shortcut", ["pad", "conv"])
@pytest.mark.parametrize("size", [7, 8])
def test_block_shapes_agree_with_their_shortcut(shortcut, size):
    block = BasicBlock(4, 8, stride=2, shortcut=shortcut)
    assert block(torch.ones(2, 4, size, size)).shape == (2, 8, 4, 4)


def test_block_without_a_change_of_shape_has_an_identity_shortcut():
    block = BasicBlock(4, 4, stride=1, shortcut="conv").eval()
    with torch.no_grad():
        block.conv2.weight.zero_()
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), x.relu(), rtol=0, atol=0)


def test_he_initialisation_has_variance_two_over_fan_out():
    block = BasicBlock(64, 128, stride=2, shortcut="conv")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        he_initialise(block)
    # 73,728 normal draws: the standard error of the variance is 0.5 %; 3 % is six of them.
    assert block.conv1.weight.var().item() == pytest.approx(2 / (128 * 9), rel=0.03)
    assert block.bn1.weight.eq(1).all()
    assert block.bn1.bias.eq(0).all()


def test_a_hessian_vector_product_flows_through_a_block():
    block = BasicBlock(2, 4, stride=2, shortcut="conv").double().eval()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = list(block.parameters())
    loss = block(x).square().mean()
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    products = torch.autograd.grad(sum(g.sum() for g in gradients), parameters)
    assert all(torch.isfinite(p).all() for p in products)
    assert any(p.abs().max() > 0 for p in products)
