"""Residual networks: a stem, stages of blocks, the global average and a linear layer.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition" (CVPR 2016), Xie, Girshick,
Dollar, Tu, He, "Aggregated residual transformations for deep neural networks" (CVPR 2017). Names of
parameters are torchvision's. Initialisation: He et al., "Delving deep into rectifiers" (ICCV 2015),
normal, fan out. No activation works in place, so that second derivatives flow.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), from C_in to C_out channels.

    Where the shape changes, the shortcut is option A (subsample, pad the new channels with zeros,
    no parameters) or option B (1x1 convolution and BatchNorm).

    Args:
        in_channels: channels of the input.
        out_channels: channels of both convolutions and of the output.
        stride: stride of the first convolution and of the shortcut; H' = ceil(H / stride).
        shortcut: "pad" is option A, "conv" option B.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        shortcut: Literal["pad", "conv"],
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = (
                _projection(in_channels, out_channels, stride)
                if shortcut == "conv"
                else SubsamplePad(stride, out_channels - in_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """relu(conv1x1(conv3x3(conv1x1(x))) + shortcut(x)), BatchNorm after each convolution.

    Args:
        in_channels: channels of the input.
        out_channels: of the output, four times the width w.
        stride: of the 3x3 convolution and of the shortcut; H' = ceil(H / stride).
        groups: of the 3x3 convolution; ResNeXt has 32, of four channels where w is 64.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, groups: int) -> None:
        super().__init__()
        inner = out_channels // (4 if groups == 1 else 2)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = _projection(in_channels, out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class SubsamplePad(nn.Module):
    """Option A: every stride-th pixel, and zeros for the new channels, half before, half after."""

    def __init__(self, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, C + new, ceil(H / stride), ceil(W / stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, self.before, self.after))


class ResNet(nn.Module):
    """A residual network; all stages but the first halve height and width.

    Args:
        stem: its convolution.
        block: makes a block from channels in, channels out and `stride`.
        stages: blocks and output channels of each stage.
        num_classes: C, the size of the output.
        pool: whether a max-pool follows the stem.
    """

    def __init__(
        self,
        stem: nn.Conv2d,
        block: Callable[..., nn.Module],
        stages: Sequence[tuple[int, int]],
        *,
        num_classes: int,
        pool: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = stem
        self.bn1 = nn.BatchNorm2d(stem.out_channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()
        self.stages = [f"layer{number}" for number in range(1, len(stages) + 1)]
        channels = stem.out_channels
        for name, (count, width) in zip(self.stages, stages, strict=True):
            blocks = []
            for index in range(count):
                stride = 2 if index == 0 and name != "layer1" else 1
                blocks.append(block(channels, width, stride=stride))
                channels = width
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)
        he_initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, in_channels, H, W) to logits (N, C)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean((2, 3)))


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    """Make a 3x3 convolution, padding 1, without bias (BatchNorm follows)."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Option B."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def he_initialise(model: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / fan_out), in place; BatchNorm stays at 1 and 0.

    The last linear layer keeps PyTorch's default, as in torchvision's ResNet.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
