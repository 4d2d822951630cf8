"""Images as the instrument reads them: normalised, never augmented, with their groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from saddlescope.longtail.datasets import Images


@dataclass(frozen=True)
class ImageSamples:
    """Images of one split, normalised when asked for.

    Attributes:
        source: the images.
        groups: group name to class numbers.
    """

    fixed: ClassVar[bool] = True

    source: Images
    groups: Mapping[str, Sequence[int]]

    @property
    def targets(self) -> Tensor:
        """Class numbers, int64, shape (N,)."""
        return self.source.labels

    def inputs(self, indices: Tensor) -> Tensor:
        """Normalised images, float32, shape (len(indices), C, H, W)."""
        return self.source.normalised(indices)
