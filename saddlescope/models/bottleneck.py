"""ResNet-50 and ResNeXt-50 for photographs, with torchvision's layout and parameter names.

He, Zhang, Ren, Sun (CVPR 2016), Table 1, the stride in the 3x3 convolution as torchvision has it;
Xie, Girshick, Dollar, Tu, He, "Aggregated residual transformations for deep neural networks" (CVPR
2017), 32x4d. Without in-place activations, so that second derivatives flow.
"""

import torch
from torch import nn

from saddlescope.models.blocks import he_initialise

_EXPANSION = 4


class Bottleneck(nn.Module):
    """relu(conv1x1(conv3x3(conv1x1(x))) + shortcut(x)), BatchNorm after each convolution.

    Args:
        in_channels: channels of the input.
        width: w of the layer; the output has 4w channels.
        stride: of the 3x3 convolution and of the shortcut; H' = ceil(H / stride).
        groups: of the 3x3 convolution.
        group_width: of 64 channels, how many a group takes; 64 with one group is ResNet.
    """

    def __init__(
        self, in_channels: int, width: int, *, stride: int, groups: int, group_width: int
    ) -> None:
        super().__init__()
        inner, outer = width * group_width // 64 * groups, width * _EXPANSION
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != outer:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C_in, H, W) to (N, 4w, H', W')."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class BottleneckResNet(nn.Module):
    """Four stages of bottlenecks after a 7x7 stem of stride 2 and a max-pool.

    Args:
        blocks: of each stage.
        num_classes: C, the size of the output.
        in_channels: channels of the images.
        groups, group_width: see `Bottleneck`.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        *,
        num_classes: int,
        in_channels: int,
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for number, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True)):
            layers = []
            for index in range(count):
                stride = 2 if number > 0 and index == 0 else 1
                layers.append(
                    Bottleneck(
                        channels, width, stride=stride, groups=groups, group_width=group_width
                    )
                )
                channels = width * _EXPANSION
            self.add_module(f"layer{number + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, num_classes)
        he_initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, in_channels, H, W) to logits (N, C)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
        return self.fc(x.mean((2, 3)))


def resnet50(*, num_classes: int, in_channels: int = 3) -> BottleneckResNet:
    """ResNet-50: 25,557,032 parameters for 3-channel images and 1,000 classes."""
    return BottleneckResNet((3, 4, 6, 3), num_classes=num_classes, in_channels=in_channels)


def resnext50(*, num_classes: int, in_channels: int = 3) -> BottleneckResNet:
    """ResNeXt-50 32x4d: 25,028,904 parameters for 3-channel images and 1,000 classes."""
    return BottleneckResNet(
        (3, 4, 6, 3),
        num_classes=num_classes,
        in_channels=in_channels,
        groups=32,
        group_width=4,
    )
