"""A short, seeded part of the campaign; `make torture` is the whole."""

import random

import pytest

from tests.torture.campaign import Tally, attempt_other, inputs
from tests.torture.inputs import Bench
from tests.torture.matrices import one_interval


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench.make(tmp_path_factory.mktemp("torture"))


# What is read is damaged on purpose: numpy, Pillow and pandas may well complain.
@pytest.mark.filterwarnings("ignore")
def test_damaged_inputs_are_refused_or_harmless(bench):
    tally = Tally()
    inputs(tally, bench, 1, lambda number: number < 400)
    assert tally.faults == []
    assert tally.of("refused") > 150


def test_intervals_hold_their_truths(bench):
    outcomes = [attempt_other(one_interval, bench, f"short/{n}") for n in range(150)]
    assert outcomes.count("contained") == 150, set(outcomes)


def test_trials_repeat_by_their_seed():
    one, two = (random.Random("0/7").random() for _ in range(2))
    assert one == two
