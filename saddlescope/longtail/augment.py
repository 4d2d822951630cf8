"""Random changes of training images, and the random streams they come from.

Small images, a whole batch at once, on their device: zero-pad, random crop and horizontal flip. The
recipe of the paper's released code: pad 4, crop to the old size, flip with probability 1/2, all
before normalising, so the border is black. The random numbers come from a CPU generator, so a seed
gives the same images on every device. Photographs: see `transforms`.
"""

from collections.abc import Sequence

import torch

from saddlescope.errors import UsageError
from saddlescope.longtail.transfer import send


class Augmentation:
    """The random streams of one epoch's images.

    Args:
        seed: of the epoch.

    Attributes:
        seed: for images that are changed one by one, each time with a stream of its own.
        before: positions that the epoch has visited already, on the CPU: of these the next visit is
            not the first.
        generator: for images that are changed batch by batch, in order; on the CPU.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.before = torch.empty(0, dtype=torch.int64)
        self.generator = torch.Generator().manual_seed(seed)

    def visits(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """How often the epoch has visited each position of these batches before, shapes as theirs.

        All zero where an order has no position twice; class-balanced sampling has.
        """
        order = torch.cat((self.before, *parts))
        sorted_positions, there = order.sort(stable=True)
        found = torch.empty_like(order)
        found[there] = torch.arange(len(order)) - torch.searchsorted(
            sorted_positions, sorted_positions
        )
        return list(found[len(self.before) :].split([len(part) for part in parts]))


def pad_crop_flip(
    images: torch.Tensor, generator: torch.Generator, *, padding: int = 4, flip: bool = True
) -> torch.Tensor:
    """Shift each image by up to `padding` pixels each way, and mirror half of them.

    Args:
        images: shape (B, C, H, W), any dtype, any device.
        generator: a CPU generator; 2B integers are drawn, and B more for the flips.
        padding: zeros added on each side before cropping, at least 0.
        flip: whether to mirror left and right with probability 1/2.

    Returns:
        New images, shape (B, C, H, W), same dtype and device.

    Raises:
        UsageError: a negative padding.
    """
    draws = draw_changes(len(images), generator, padding=padding, flip=flip)
    return changed(images, send(draws, images.device), padding=padding)


def draw_changes(
    count: int, generator: torch.Generator, *, padding: int = 4, flip: bool = True
) -> torch.Tensor:
    """Draw what `pad_crop_flip` needs for a batch: top, left, and whether to mirror.

    Returns:
        Shape (3, count), int64, on the CPU.

    Raises:
        UsageError: a negative padding.
    """
    if padding < 0:
        raise UsageError(f"padding={padding}: give a number of at least 0")
    draws = torch.zeros(3, count, dtype=torch.int64)
    draws[:2] = torch.randint(2 * padding + 1, (2, count), generator=generator)
    if flip:
        draws[2] = torch.randint(2, (count,), generator=generator)
    return draws


def changed(images: torch.Tensor, draws: torch.Tensor, *, padding: int = 4) -> torch.Tensor:
    """Images shifted and mirrored as drawn.

    Args:
        images: shape (B, C, H, W), any dtype.
        draws: of `draw_changes`, shape (3, B), on the same device.
        padding: that they were drawn with.
    """
    batch, channels, height, width = images.shape
    top, left, mirrored = draws
    device = images.device
    columns = torch.arange(width, device=device)
    columns = torch.where(mirrored[:, None] == 1, columns.flip(0), columns) + left[:, None]
    rows = torch.arange(height, device=device) + top[:, None]
    padded = torch.nn.functional.pad(images, (padding, padding, padding, padding))
    return padded[
        torch.arange(batch, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
