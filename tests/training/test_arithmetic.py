"""What a recipe says of float32 and of cuDNN holds while it trains, and is on record."""

import pytest
import torch

from saddlescope.curvature.objective.state import tf32
from saddlescope.longtail import load_data
from saddlescope.runs import RunFolder
from saddlescope.training import packaged_recipe, train
from saddlescope.training.arithmetic import arithmetic


def settings():
    get, cudnn = torch._C._get_fp32_precision_getter, torch.backends.cudnn
    return get("cuda", "matmul"), get("cuda", "conv"), cudnn.deterministic, cudnn.benchmark


def recipe(*overrides):
    return packaged_recipe("digits-lt", overrides=["training.epochs=1", *overrides])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), ("ieee", "ieee", False, False)),
        (("training.precision=tf32",), ("tf32", "tf32", False, False)),
        (("training.precision=bf16",), ("ieee", "ieee", False, False)),
        (("training.deterministic=true",), ("ieee", "ieee", True, False)),
    ],
)
@pytest.mark.parametrize("caller", [True, False])
def test_the_recipe_decides_whatever_the_caller_has_set(overrides, expected, caller):
    with tf32(allowed=caller):
        before = settings()
        with arithmetic(recipe(*overrides).training):
            assert settings() == expected
        assert settings() == before
        with pytest.raises(ZeroDivisionError), arithmetic(recipe(*overrides).training):
            raise ZeroDivisionError
        assert settings() == before


def test_a_run_says_how_it_was_computed(tmp_path):
    asked = recipe("training.precision=tf32", "training.deterministic=true")
    data = load_data("digits", imbalance_factor=100.0)
    folder = train(asked, data, RunFolder(tmp_path / "run"))
    assert folder.run()["provenance"]["precision"] == {
        "matmul": "tf32", "convolution": "tf32", "deterministic": True,
    }  # fmt: skip


@pytest.mark.parametrize("fast", [True, False])
def test_a_processor_without_bfloat16_is_said(tmp_path, monkeypatch, caplog, fast):
    monkeypatch.setattr("saddlescope.training.steps.fast_bfloat16", lambda: fast)
    chosen = recipe("training.precision=bf16")
    train(chosen, load_data("digits", imbalance_factor=20), RunFolder(tmp_path / "run"))
    said = [text for text in caplog.messages if "bf16" in text]
    assert len(said) == (0 if fast else 1)
    assert all("float32" in text for text in said)
