"""ResNet-34 for 32x32 images, the network of the paper's released code.

The layout and the parameter names are torchvision's ResNet-34 (3, 4, 6, 3 blocks of widths 64,
128, 256, 512; 1x1 convolutions in the shortcuts), with a 3x3 stride-1 stem and no max-pool.
The released code pools 4x4 at the end, which at 32x32 is the global average taken here.
"""

import torch
from torch import nn

from saddlescope.models.blocks import conv3x3, he_initialise, stage


class ResNet34(nn.Module):
    """ResNet-34 with option-B shortcuts and a stem for small images.

    Args:
        num_classes: C, the size of the output.
        in_channels: channels of the images.
    """

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.layer1 = stage(64, 64, 3, stride=1, shortcut="conv")
        self.layer2 = stage(64, 128, 4, stride=2, shortcut="conv")
        self.layer3 = stage(128, 256, 6, stride=2, shortcut="conv")
        self.layer4 = stage(256, 512, 3, stride=2, shortcut="conv")
        self.fc = nn.Linear(512, num_classes)
        he_initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, in_channels, H, W) to logits (N, C)."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def resnet34(*, num_classes: int, in_channels: int = 3) -> ResNet34:
    """ResNet-34: 21,328,292 parameters for 3-channel images and 100 classes."""
    return ResNet34(num_classes=num_classes, in_channels=in_channels)
