"""The residual networks by name.

ResNet-8, -20 and -32 are He et al.'s 6n+2 layer networks for small images (section 4.2): a 3x3
stem, three stages of n blocks of widths 16, 32 and 64, shortcuts without parameters. ResNet-34 is
that of the paper's released code for 32x32 images: torchvision's layout with a 3x3 stem of stride 1
and no max-pool. (The released code pools 4x4 at the end, which at 32x32 is the global average taken
here.) ResNet-50 and ResNeXt-50 32x4d are torchvision's, for photographs, the stride in the 3x3
convolution.
"""

from functools import partial

from torch import nn

from saddlescope.models.resnet import BasicBlock, Bottleneck, ResNet, conv3x3


def resnet8(*, num_classes: int, in_channels: int = 1) -> ResNet:
    """Make ResNet-8 (n = 1): 75,002 parameters for 1-channel images and 10 classes."""
    return _small(1, num_classes, in_channels)


def resnet20(*, num_classes: int, in_channels: int = 3) -> ResNet:
    """Make ResNet-20 (n = 3): 269,722 parameters at 10 classes, 275,572 at 100."""
    return _small(3, num_classes, in_channels)


def resnet32(*, num_classes: int, in_channels: int = 3) -> ResNet:
    """Make ResNet-32 (n = 5): 464,154 parameters at 10 classes, 470,004 at 100."""
    return _small(5, num_classes, in_channels)


def resnet34(*, num_classes: int, in_channels: int = 3) -> ResNet:
    """Make ResNet-34: 21,328,292 parameters for 3-channel images and 100 classes."""
    block = partial(BasicBlock, shortcut="conv")
    stages = ((3, 64), (4, 128), (6, 256), (3, 512))
    return ResNet(conv3x3(in_channels, 64), block, stages, num_classes=num_classes)


def resnet50(*, num_classes: int, in_channels: int = 3) -> ResNet:
    """Make ResNet-50: 25,557,032 parameters for 3-channel images and 1,000 classes."""
    return _photographs(1, num_classes, in_channels)


def resnext50(*, num_classes: int, in_channels: int = 3) -> ResNet:
    """Make ResNeXt-50 32x4d: 25,028,904 parameters for 3-channel images and 1,000 classes."""
    return _photographs(32, num_classes, in_channels)


def _small(blocks: int, num_classes: int, in_channels: int) -> ResNet:
    block = partial(BasicBlock, shortcut="pad")
    stages = [(blocks, width) for width in (16, 32, 64)]
    return ResNet(conv3x3(in_channels, 16), block, stages, num_classes=num_classes)


def _photographs(groups: int, num_classes: int, in_channels: int) -> ResNet:
    stem = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    block = partial(Bottleneck, groups=groups)
    stages = ((3, 256), (4, 512), (6, 1024), (3, 2048))
    return ResNet(stem, block, stages, num_classes=num_classes, pool=True)
