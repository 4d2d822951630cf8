"""A short, seeded part of the campaign; `make torture` is the whole."""

import random
from dataclasses import replace

import pytest

from tests.torture.bombs import axes, cells, keys, lies, one, repeats, shares
from tests.torture.campaign import KNOWN, Tally, attempt_other, inputs
from tests.torture.inputs import Bench
from tests.torture.kills import COMMANDS, killed
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [repeats, shares, lies, axes, keys, cells])
def test_small_files_take_neither_gigabytes_nor_minutes(bench, make):
    assert one(make, bench, random.Random(1)) == "refused"


def test_a_run_killed_on_its_way_is_the_same_in_the_end(bench):
    command = replace(COMMANDS["train"][0], warm=0.0)
    assert set(killed("train", command, bench, random.Random(5), most=2)) <= set(KNOWN)


def test_trials_repeat_by_their_seed():
    one, two = (random.Random("0/7").random() for _ in range(2))
    assert one == two
