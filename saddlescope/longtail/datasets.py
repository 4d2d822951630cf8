"""The two nouns of this room: images with labels, and a long-tailed data set.

Images stay uint8 on one device, as in cifar10-airbench: a CIFAR set fits on any GPU, and
cropping, flipping and normalising there needs no worker processes.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from saddlescope.errors import DataError
from saddlescope.longtail.augment import Augmentation, changed, draw_changes
from saddlescope.longtail.files import ImageFiles, add_weights
from saddlescope.longtail.splits import Classes, Thresholds
from saddlescope.longtail.subsets import Cut
from saddlescope.longtail.transfer import send


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with their classes, not augmented and not normalised.

    Attributes:
        images: shape (N, C, H, W), uint8.
        labels: shape (N,), int64, on the same device.
        mean: mean of each channel after division by `scale`, length C.
        std: standard deviation of each channel after division by `scale`, length C.
        scale: the pixel value that stands for 1.
        sample_weights: factors of the samples' training losses, shape (N,), float32, on the same
            device; None weighs all alike.
    """

    images: torch.Tensor = field(repr=False)
    labels: torch.Tensor = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0
    sample_weights: torch.Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}: "
                "give uint8 of shape (N, C, H, W)"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}: "
                f"give int64 of shape ({len(self.images)},)"
            )
        weights = self.sample_weights
        if weights is not None and (
            weights.dtype != torch.float32 or weights.shape != self.labels.shape
        ):
            raise DataError(
                f"sample_weights are {weights.dtype} of shape {tuple(weights.shape)}: "
                f"give float32 of shape ({len(self.images)},)"
            )
        if not len(self.mean) == len(self.std) == self.images.shape[1]:
            raise DataError(
                f"mean and std have {len(self.mean)} and {len(self.std)} numbers: "
                f"give one for each of the {self.images.shape[1]} channels"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where images and labels are."""
        return self.labels.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> "LabelledImages":
        """Return the same set on another device."""
        weights = None if self.sample_weights is None else self.sample_weights.to(device)
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            sample_weights=weights,
        )

    def select(self, indices: torch.Tensor | Sequence[int]) -> "LabelledImages":
        """Return the samples at these positions, shape (n,), in this order."""
        positions = torch.as_tensor(indices, dtype=torch.int64, device=self.labels.device)
        weights = self.sample_weights
        return replace(
            self,
            images=self.images[positions],
            labels=self.labels[positions],
            sample_weights=None if weights is None else weights[positions],
        )

    def indices_of(self, classes: Iterable[int]) -> torch.Tensor:
        """Positions of the samples of these classes, ascending, int64, on the set's device."""
        wanted = torch.tensor(sorted(classes), dtype=torch.int64, device=self.labels.device)
        return torch.isin(self.labels, wanted).nonzero().flatten()

    def pictures(self, indices: torch.Tensor | Sequence[int]) -> torch.Tensor:
        """Images at these positions, uint8, shape (n, C, H, W)."""
        return self.select(indices).images

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(images / scale - mean) / std, uint8 to float32, for images of this set's kind."""
        mean, std = self._affine
        return (images.to(torch.float32) / self.scale - mean) / std

    def normalised(self, indices: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        """Normalised images at these positions (all by default), shape (n, C, H, W), float32."""
        return self.normalise(self.images if indices is None else self.select(indices).images)

    def batches(
        self,
        parts: Iterable[torch.Tensor],
        *,
        augmentation: Augmentation | None = None,
        mine: Callable[[int], slice] = lambda _: slice(None),
    ) -> Iterator[torch.Tensor]:
        """Normalised images of one batch after the other, each made when it is asked for.

        Args:
            parts: positions of each batch, on the CPU.
            augmentation: the random streams of `pad_crop_flip`; None leaves images as they are.
            mine: of a batch of so many samples, which ones to give out; all are drawn for.

        Yields:
            Images of shape (b, C, H, W), float32, on the device.
        """
        for part in parts:
            chosen = mine(len(part))
            images = self.images[send(part[chosen], self.device)]
            if augmentation is not None:
                draws = draw_changes(len(part), augmentation.generator)
                images = changed(images, send(draws[:, chosen], self.device))
            yield self.normalise(images)

    @cached_property
    def _affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and std on the device, shape (C, 1, 1): copied once, not once a batch."""
        mean = torch.tensor(self.mean, dtype=torch.float32, device=self.images.device)
        std = torch.tensor(self.std, dtype=torch.float32, device=self.images.device)
        return mean[:, None, None], std[:, None, None]

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of shape, pixels, labels and weights, as hex; the same on every device."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().numpy().tobytes())
        digest.update(self.labels.cpu().numpy().astype("<i8").tobytes())
        add_weights(digest, self.sample_weights)
        return digest.hexdigest()


Images = LabelledImages | ImageFiles
"""Images of one split, in memory or in files."""


@dataclass(frozen=True, eq=False)
class LongTailData:
    """A long-tailed training set, its balanced test set, and how the classes are grouped.

    Attributes:
        name: key of the data set in `DATASETS`.
        train: the training images that were kept.
        test: the test images.
        class_names: a name for each class.
        counts: training images of each class.
        thresholds: where the classes are parted.
        imbalance_factor: largest over smallest class, as asked for; None where every image there is
            was taken.
        cut: how the tail was cut; of no meaning without an imbalance factor.
    """

    name: str
    train: Images
    test: Images
    class_names: tuple[str, ...]
    counts: tuple[int, ...]
    thresholds: Thresholds
    imbalance_factor: float | None
    cut: Cut

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.counts)

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.train.image_shape[0]

    @property
    def image_pixels(self) -> int:
        """Height times width of an image."""
        _, height, width = self.train.image_shape
        return height * width

    @cached_property
    def groups(self) -> dict[str, Classes]:
        """Classes of "all", "head", "tail", "many", "medium" and "few"; a shot may be empty."""
        return self.thresholds.groups(self.counts)

    @property
    def shots(self) -> dict[str, Classes]:
        """Classes of "many", "medium" and "few"."""
        return {name: self.groups[name] for name in ("many", "medium", "few")}

    @property
    def checksum(self) -> str:
        """SHA-256 over the checksums of both splits, as hex."""
        return hashlib.sha256((self.train.checksum + self.test.checksum).encode()).hexdigest()

    def to(self, device: torch.device | str) -> "LongTailData":
        """Return the same data with both splits on another device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


@dataclass(frozen=True, eq=False)
class SourceData:
    """A data set as it lies on disk, before the long tail is cut.

    Attributes:
        train: every training image available.
        test: every test image.
        class_names: a name for each class.
        official_rows: training images of the complete data set; `train` may hold fewer.
    """

    train: Images
    test: Images
    class_names: tuple[str, ...]
    official_rows: int
