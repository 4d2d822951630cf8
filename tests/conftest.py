"""What all tests share: one thread, and where real data may be found."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Small problems: two threads cost more than they bring, and xdist already uses both cores.
torch.set_num_threads(1)
settings.register_profile(
    "house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """The folder with the official CIFAR python-format folders, or a skip with the reason."""
    root = os.environ.get("SADDLESCOPE_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real CIFAR is not here: set SADDLESCOPE_DATA to its folder")
    return Path(root)
