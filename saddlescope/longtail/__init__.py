"""Long-tailed data: profiles, splits, data sets, augmentation, losses and shot accuracy.

Everything that the paper's experiments need around the network, with the numbers of the
authors' released code as defaults, and no torchvision.
"""

from saddlescope.longtail.accuracy import per_class_accuracy, shot_accuracy
from saddlescope.longtail.augment import Augmentation, changed, draw_changes, pad_crop_flip
from saddlescope.longtail.datasets import Images, LabelledImages, LongTailData, SourceData
from saddlescope.longtail.files import ImageFiles
from saddlescope.longtail.inspect import describe, describe_text
from saddlescope.longtail.losses import check_options, make_loss
from saddlescope.longtail.nesting import Nesting
from saddlescope.longtail.photographs import FileOptions
from saddlescope.longtail.profiles import PROFILES, class_counts
from saddlescope.longtail.registry import (
    DATASETS,
    ROOT_VARIABLE,
    DatasetSpec,
    dataset_spec,
    load_data,
)
from saddlescope.longtail.samples import ImageSamples
from saddlescope.longtail.sheet import write_sheet
from saddlescope.longtail.splits import Thresholds, head_tail, shots
from saddlescope.longtail.subsets import SUBSETS, Cut, choose_subset
from saddlescope.longtail.transfer import send

__all__ = [
    "DATASETS", "PROFILES", "ROOT_VARIABLE", "SUBSETS", "Augmentation", "Cut", "DatasetSpec",
    "FileOptions", "ImageFiles", "ImageSamples", "Images", "LabelledImages", "LongTailData",
    "Nesting", "SourceData", "Thresholds", "changed", "check_options", "choose_subset",
    "class_counts", "dataset_spec", "describe", "describe_text", "draw_changes", "head_tail",
    "load_data", "make_loss", "pad_crop_flip", "per_class_accuracy", "send", "shot_accuracy",
    "shots", "write_sheet",
]  # fmt: skip
