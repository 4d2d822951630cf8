"""Radii by method and epoch; the switch compares exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saddlescope.errors import UsageError
from saddlescope.runs import METHODS
from saddlescope.sharpness import RadiusOptions, method_radii


def test_every_key_of_the_schema_is_a_method():
    for method in METHODS:
        assert method_radii(method, epochs=10).at(0)


@pytest.mark.parametrize(
    ("epochs", "options", "words"),
    [
        (0, {}, "epochs = 0"),
        (9, {"rho_head": float("nan")}, "radius of group 'head' is nan"),
        (9, {"rho_tail": -1.0}, "radius of group 'tail' is -1"),
    ],
)
def test_numbers_that_no_step_could_take(epochs, options, words):
    with pytest.raises(UsageError, match=words):
        method_radii("sse-sam", epochs=epochs, options=RadiusOptions(**options))


@given(st.integers(0, 100), st.integers(1, 400))
def test_stage_two_begins_with_the_first_epoch_not_below_gamma_t(percent, epochs):
    radii = method_radii("sse-sam", epochs=epochs, options=RadiusOptions(gamma=percent / 100))
    for epoch in range(epochs):
        # In integers, so that the oracle cannot round: epoch >= γT.
        assert radii.stage(epoch) == (2 if 100 * epoch >= percent * epochs else 1)


def test_the_known_trap_of_binary_fractions():
    assert 0.29 * 100 < 29  # which is why the comparison is not made in floats
    assert method_radii("sse-sam", epochs=100, options=RadiusOptions(gamma=0.29)).switch_epoch == 29


def test_ends_of_gamma():
    assert method_radii("sse-sam", epochs=10, options=RadiusOptions(gamma=1.0)).at(9) == {
        "head": 0.05,
        "tail": 0.10,
    }
    assert method_radii("sse-sam", epochs=10, options=RadiusOptions(gamma=0.0)).at(0) == {
        "head": 0.0,
        "tail": 0.10,
    }


def test_only_sgd_and_sam_know_no_groups():
    grouped = [m for m in METHODS if method_radii(m, epochs=5).grouped(0)]
    assert grouped == ["imbsam", "sam-ext", "sse-sam"]


def test_refusals():
    with pytest.raises(UsageError, match=r"gamma = 1\.5"):
        method_radii("sse-sam", epochs=10, options=RadiusOptions(gamma=1.5))
    with pytest.raises(UsageError, match="unknown method 'asam'"):
        method_radii("asam", epochs=10)


def test_a_share_is_the_number_that_it_prints_as_whatever_its_type():
    for share in (0.7, np.float64(0.7)):
        options = RadiusOptions(gamma=share)
        assert method_radii("sse-sam", epochs=10, options=options).switch_epoch == 7
