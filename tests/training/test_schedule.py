"""Step sizes at the ends and the middle of each schedule."""

import pytest

from saddlescope.errors import UsageError
from saddlescope.training.schedule import refuse_standing_still, step_size


def test_constant_stays():
    assert step_size(0.1, "constant", 7, 10) == 0.1


def test_cosine_starts_whole_and_is_halved_in_the_middle():
    assert step_size(0.1, "cosine", 0, 10) == 0.1
    assert step_size(0.1, "cosine", 5, 10) == pytest.approx(0.05)
    assert step_size(0.1, "cosine", 9, 10) > 0


def test_the_released_code_ends_at_zero():
    assert step_size(0.1, "cosine-released", 9, 10) == pytest.approx(0.0, abs=1e-17)
    assert step_size(0.1, "cosine-released", 0, 10) == step_size(0.1, "cosine", 1, 10)


def test_standing_still_is_refused():
    refuse_standing_still("cosine", 1)
    refuse_standing_still("cosine-released", 2)
    with pytest.raises(UsageError, match="step size 0 throughout"):
        refuse_standing_still("cosine-released", 1)
