"""What all tests share: one thread, and where real data may be found."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Small problems: two threads cost more than they bring, and xdist already uses both cores.
torch.set_num_threads(1)
# The cases are the same at every run, so that more of them would find nothing new the second time;
# `--hypothesis-profile thorough` draws others, and many.
RELAXED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("house", derandomize=True, max_examples=40, **RELAXED)
settings.register_profile("thorough", max_examples=400, **RELAXED)
settings.load_profile("house")


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """The folder with the official CIFAR python-format folders, or a skip with the reason."""
    root = os.environ.get("SADDLESCOPE_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real CIFAR is not here: set SADDLESCOPE_DATA to its folder")
    return Path(root)
