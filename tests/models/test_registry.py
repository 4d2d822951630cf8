import pytest
import torch

from saddlescope.errors import UsageError
from saddlescope.models import MODELS, build_model


def test_every_registered_model_builds_in_float32_on_the_cpu():
    for name in MODELS:
        model = build_model(name, num_classes=3, in_channels=1, seed=0)
        assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float32, "cpu")}


def test_the_seed_alone_decides_the_weights():
    torch.manual_seed(1)
    first = build_model("resnet8", num_classes=10, in_channels=1, seed=5).state_dict()
    torch.manual_seed(2)
    again = build_model("resnet8", num_classes=10, in_channels=1, seed=5).state_dict()
    other = build_model("resnet8", num_classes=10, in_channels=1, seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    build_model("resnet8", num_classes=10, in_channels=1, seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UsageError, match=r"unknown model 'resnet-32': did you mean 'resnet32'\?"):
        build_model("resnet-32", num_classes=10, in_channels=3, seed=0)
    with pytest.raises(UsageError, match="choose from resnet8, resnet20, resnet32, resnet34"):
        build_model("zzz", num_classes=10, in_channels=3, seed=0)


@pytest.mark.parametrize(
    ("argument", "value"), [("num_classes", 1), ("in_channels", 0), ("seed", -1)]
)
def test_a_number_out_of_range_is_named(argument, value):
    options = {"num_classes": 10, "in_channels": 1, "seed": 0, argument: value}
    with pytest.raises(UsageError, match=rf"{argument}={value}"):
        build_model("resnet8", **options)
