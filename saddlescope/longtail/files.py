"""Images that stay in their files: decoded when they are needed, by worker processes if asked.

The counterpart of `LabelledImages` for sets that do not fit into memory. A file is opened with
Pillow, by the readers of the usual formats only; what is broken, too large or missing is an error
that names it.
"""

import contextlib
import hashlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

from saddlescope.errors import DataError
from saddlescope.longtail.augment import Augmentation
from saddlescope.longtail.cache import DecodedImages
from saddlescope.longtail.transforms import centre_crop, resized_crop_flip, shrink

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
_EIGHT_BITS = [(value * 255 + 32767) // 65535 for value in range(65536)]
_AT_A_TIME = 64
"""Images of a batch where nobody asks for a size."""


def decode(path: Path, *, shrink_to: int | None) -> Image.Image:
    """Read an image file as RGB, turned as its EXIF orientation says.

    Grey values of 16 bits are scaled to 8: 65535 is white.

    Raises:
        DataError: missing, broken, of another format, or too large to be a photograph.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if shrink_to is not None:
                # Lets a JPEG be decoded at a half, a quarter or an eighth where that is enough.
                image.draft("RGB", (2 * shrink_to, 2 * shrink_to))
            image.load()
            rgb = _eight_bits(image)
            rgb = _upright(rgb if rgb.mode == "RGB" else rgb.convert("RGB"))
    except Image.DecompressionBombError:
        raise DataError(f"{path}: more pixels than a photograph has; not read") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image of the formats {', '.join(_FORMATS)}") from None
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read as an image: {reason}") from None
    return rgb if shrink_to is None else shrink(rgb, shrink_to)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel: Pillow's own conversion cuts 16 of them off at 255.

    By Pillow's table, where arrays of 64-bit integers would take gigabytes for a small file.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    return image.convert("I").point(_EIGHT_BITS, "L") if image.mode.startswith("I") else image


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says."""
    # Broken EXIF data raise many types, and say nothing: the pixels are there.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def add_weights(digest: "hashlib._Hash", weights: torch.Tensor | None) -> None:
    """Add the weights of samples to a checksum; of samples without any it stays as it is."""
    if weights is not None:
        digest.update(weights.cpu().numpy().astype("<f4").tobytes())


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files with their classes, of any size, given out at one size.

    Attributes:
        root: folder that the paths are relative to.
        paths: one a sample, with forward slashes.
        labels: shape (N,), int64, on the device that batches go to.
        mean: mean of each channel after division by 255, length 3.
        std: standard deviation of each channel after division by 255, length 3.
        size: S, the height and width of what is given out.
        shrink_to: the shorter side that larger images are reduced to before any crop; None keeps
            them as they are.
        sample_weights: shape (N,), float32, on the device; None weighs all samples alike.
        workers: processes that decode; 0 decodes in this one.
        cache: decoded images on disk; None decodes each time.
    """

    root: Path
    paths: tuple[str, ...] = field(repr=False)
    labels: torch.Tensor = field(repr=False)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    size: int = 224
    shrink_to: int | None = None
    sample_weights: torch.Tensor | None = field(default=None, repr=False)
    workers: int = 0
    cache: DecodedImages | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return self.labels.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is given out."""
        return 3, self.size, self.size

    def to(self, device: torch.device | str) -> "ImageFiles":
        """Return the same set, its batches for another device."""
        weights = None if self.sample_weights is None else self.sample_weights.to(device)
        return replace(self, labels=self.labels.to(device), sample_weights=weights)

    def select(self, indices: torch.Tensor | Sequence[int]) -> "ImageFiles":
        """Return the samples at these positions, shape (n,), in this order."""
        positions = torch.as_tensor(indices, dtype=torch.int64)
        there = positions.to(self.device)
        return replace(
            self,
            paths=tuple(self.paths[i] for i in positions.tolist()),
            labels=self.labels[there],
            sample_weights=None if self.sample_weights is None else self.sample_weights[there],
        )

    def indices_of(self, classes: Iterable[int]) -> torch.Tensor:
        """Positions of the samples of these classes, ascending, int64, on the set's device."""
        wanted = torch.tensor(sorted(classes), dtype=torch.int64, device=self.device)
        return torch.isin(self.labels, wanted).nonzero().flatten()

    def pictures(self, indices: torch.Tensor | Sequence[int]) -> torch.Tensor:
        """Centre crops at these positions, uint8, shape (n, 3, S, S), on the CPU."""
        parts = torch.as_tensor(indices, dtype=torch.int64).cpu().split(_AT_A_TIME)
        return torch.cat(list(self._read(parts, None)))

    def normalised(self, indices: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        """Normalised centre crops (all by default), shape (n, 3, S, S), float32."""
        chosen = torch.arange(len(self)) if indices is None else indices
        return self._normalise(self.pictures(chosen))

    def batches(
        self,
        parts: Iterable[torch.Tensor],
        *,
        augmentation: Augmentation | None = None,
        mine: Callable[[int], slice] = lambda _: slice(None),
    ) -> Iterator[torch.Tensor]:
        """Normalised images of one batch after the other, read ahead by the workers.

        Args:
            parts: positions of each batch, on the CPU.
            augmentation: the random streams of a resized crop and flip; None takes centre crops.
            mine: of a batch of so many samples, which ones to give out.

        Yields:
            Images of shape (B, 3, S, S), float32, on the device.

        Raises:
            DataError: a file that cannot be read.
        """
        asked, seed = list(parts), None
        if augmentation is not None:
            # A visit is a sample of its own. Counted in whole batches: every rank counts alike.
            visits, seed = augmentation.visits(asked), augmentation.seed
            asked = [a + len(self) * b for a, b in zip(asked, visits, strict=True)]
        for images in self._read([part[mine(len(part))] for part in asked], seed):
            yield self._normalise(images)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of paths, labels and weights, as hex; the files are not read for it."""
        digest = hashlib.sha256()
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            digest.update(f"{path}\0{label}\n".encode("utf-8", "surrogateescape"))
        add_weights(digest, self.sample_weights)
        return digest.hexdigest()

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (self.mean, self.std)
        )
        return (images.to(self.device, non_blocking=True).float() / 255.0 - mean) / std

    def _read(self, parts: Sequence[torch.Tensor], seed: int | None) -> Iterator[torch.Tensor]:
        files = _Crops(self.root, self.paths, self.size, self.shrink_to, self.cache, seed)
        yield from _checked(
            DataLoader(
                files,
                num_workers=self.workers,
                multiprocessing_context=_context(self.workers),
                batch_sampler=[part.tolist() for part in parts],
                collate_fn=_stacked,
                pin_memory=self.device.type == "cuda",
            )
        )


def decode_all(
    root: Path, paths: Sequence[str], *, shrink_to: int | None, workers: int = 0
) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode files one after the other, read ahead by the workers.

    Yields:
        Pixels, shape (H, W, 3).

    Raises:
        DataError: a file that cannot be read.
    """
    files = _Whole(root, tuple(paths), shrink_to)
    loader: DataLoader[Any] = DataLoader(
        files, num_workers=workers, multiprocessing_context=_context(workers), batch_size=None
    )
    yield from (pixels.numpy() for pixels in _checked(loader))


class _Whole(Dataset[Any]):
    """What a worker process does: a position in, an image or what is wrong with it out."""

    def __init__(self, root: Path, paths: tuple[str, ...], shrink_to: int | None) -> None:
        self.root, self.paths, self.shrink_to = root, paths, shrink_to

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        return decode(self.root / self.paths[index], shrink_to=self.shrink_to)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8] | str:
        # An error is handed over as a value: raised in a worker it would arrive as its traceback.
        try:
            return np.array(self.image(index))
        except DataError as error:
            return str(error)


class _Crops(_Whole):
    """The same at one size: the middle, or with a seed a random part.

    Positions go on beyond the last: once more through all images, with other random numbers.
    """

    def __init__(
        self,
        root: Path,
        paths: tuple[str, ...],
        size: int,
        shrink_to: int | None,
        cache: DecodedImages | None,
        seed: int | None,
    ) -> None:
        super().__init__(root, paths, shrink_to)
        self.size, self.cache, self.seed = size, cache, seed

    def image(self, index: int) -> Image.Image:
        visit, index = divmod(index, len(self.paths))
        if self.cache is not None:
            image = Image.fromarray(self.cache[self.paths[index]])
        else:
            image = super().image(index)
        if self.seed is None:
            return centre_crop(image, self.size)
        # A stream for each visit; (seed, index, 0) would be the same stream as (seed, index).
        stream = (self.seed, index, visit) if visit else (self.seed, index)
        return resized_crop_flip(image, self.size, np.random.default_rng(stream))


def _context(workers: int) -> Any:
    """How worker processes begin: not as forks, which may inherit a lock for good."""
    return multiprocessing.get_context("forkserver") if workers else None


def _checked(loader: "DataLoader[Any]") -> Iterator[torch.Tensor]:
    for found in loader:
        if isinstance(found, str):
            raise DataError(found)
        yield found


def _stacked(samples: list[npt.NDArray[np.uint8] | str]) -> torch.Tensor | str:
    wrong = next((sample for sample in samples if isinstance(sample, str)), None)
    if wrong is not None:
        return wrong
    return torch.from_numpy(np.stack(samples)).permute(0, 3, 1, 2)
