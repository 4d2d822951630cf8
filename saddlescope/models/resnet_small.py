"""ResNet-8, ResNet-20 and ResNet-32: the 6n+2 layer networks for small images.

He, Zhang, Ren, Sun (CVPR 2016), section 4.2: a 3x3 stem, three stages of n blocks and
widths 16, 32 and 64, global average pooling and a linear layer, shortcuts of option A (no
parameters). n = 5 gives the 0.46 million parameters of its Table 6 at 10 classes, 0.47 million at
100. n = 1 is the small default for the 8x8 digits.
"""

import torch
from torch import nn

from saddlescope.models.blocks import conv3x3, he_initialise, stage


class SmallResNet(nn.Module):
    """A 6n+2 layer ResNet with option-A shortcuts.

    Args:
        blocks: n, the blocks of each of the three stages.
        num_classes: C, the size of the output.
        in_channels: channels of the images.
    """

    def __init__(self, blocks: int, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = stage(16, 16, blocks, stride=1, shortcut="pad")
        self.layer2 = stage(16, 32, blocks, stride=2, shortcut="pad")
        self.layer3 = stage(32, 64, blocks, stride=2, shortcut="pad")
        self.fc = nn.Linear(64, num_classes)
        he_initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, in_channels, H, W) to logits (N, C)."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def resnet8(*, num_classes: int, in_channels: int = 1) -> SmallResNet:
    """ResNet-8 (n = 1): 75,002 parameters for 1-channel images and 10 classes."""
    return SmallResNet(1, num_classes=num_classes, in_channels=in_channels)


def resnet20(*, num_classes: int, in_channels: int = 3) -> SmallResNet:
    """ResNet-20 (n = 3): 269,722 parameters at 10 classes, 275,572 at 100."""
    return SmallResNet(3, num_classes=num_classes, in_channels=in_channels)


def resnet32(*, num_classes: int, in_channels: int = 3) -> SmallResNet:
    """ResNet-32 (n = 5): 464,154 parameters at 10 classes, 470,004 at 100."""
    return SmallResNet(5, num_classes=num_classes, in_channels=in_channels)
