"""GroupNorm in place of BatchNorm: samples do not see one another."""

import pytest
import torch
from torch import nn

from saddlescope.errors import UsageError
from saddlescope.models import build_model


@pytest.mark.parametrize("name", ["resnet8", "resnet32", "resnet34", "resnet50"])
def test_no_batch_norm_is_left_and_the_other_weights_are_the_same(name):
    batch, group = (
        build_model(name, num_classes=4, in_channels=1, seed=3, norm=norm)
        for norm in ("batch", "group")
    )
    assert not any(isinstance(module, nn.BatchNorm2d) for module in group.modules())
    ours, theirs = group.state_dict(), batch.state_dict()
    assert set(ours) == {key for key in theirs if "running" not in key and "tracked" not in key}
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_groups_divide_the_channels():
    model = build_model("resnet8", num_classes=4, in_channels=1, seed=3, norm="group")
    groups = {m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {16, 32}


def test_a_samples_logits_do_not_depend_on_the_batch():
    model = build_model("resnet8", num_classes=4, in_channels=1, seed=3, norm="group")
    images = torch.randn(6, 1, 8, 8)
    torch.testing.assert_close(model(images)[:2], model(images[:2]))


def test_an_unknown_norm():
    with pytest.raises(UsageError, match="choose from batch, group"):
        build_model("resnet8", num_classes=4, in_channels=1, seed=0, norm="layer")
