"""Acting characters are taken out; numbers are short and honest."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saddlescope.reporting.loading import clean
from saddlescope.reporting.text import (
    interval,
    listing,
    number,
    number_within,
    percent,
    plural,
    shorten,
)


def test_clean_replaces_what_acts_and_keeps_what_is_read():
    assert (
        clean("a\x1b[31mb\x00c\u202ed\ud800\r\n\té λ 猫")
        == "a\ufffd[31mb\ufffdc\ufffdd\ufffd\n\té λ 猫"
    )
    assert clean({"a\x07": ["\x9b", 1, None]}) == {"a\ufffd": ["\ufffd", 1, None]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (24.04, "24.0"),
        (9.999, "10.0"),
        (-21.929, "−21.9"),
        (351.8, "352"),
        (12345.6, "12346"),
        (0.00012345, "0.000123"),
        (1.5e-7, "1.50e-07"),
        (-2e12, "−2.00e+12"),
        (math.nan, "—"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (None, "—"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_interval_tells_its_ends_apart():
    assert interval(1.0001, 1.0002) == "[1.0001, 1.0002]"
    assert interval(40, math.inf) == "[40.0, ∞]"
    assert interval(math.nan, math.nan) == "—"
    assert interval(2.0, 2.0) == "[2.00, 2.00]"


@given(
    low=st.floats(1e-6, 1e6), width=st.floats(1e-9, 1.0), share=st.floats(0.0, 1.0),
    sign=st.sampled_from([1.0, -1.0]),
)  # fmt: skip
def test_a_number_lies_in_the_interval_that_is_printed(low, width, share, sign):
    lower, upper = sorted((sign * low, sign * low * (1 + width)))
    value = min(max(lower + share * (upper - lower), lower), upper)
    left, right = interval(lower, upper).strip("[]").split(", ")
    printed = [
        float(t.replace("−", "-")) for t in (left, number_within(value, lower, upper), right)
    ]
    assert printed == sorted(printed)


def test_small_words():
    assert percent(0.1234) == "12.3"
    assert percent(math.nan) == "—"
    assert listing(["a"]) == "a"
    assert listing(["a", "b", "c"]) == "a, b and c"
    assert plural(1, "class", "classes") == "1 class"
    assert plural(2, "class", "classes") == "2 classes"
    assert shorten("a\n b " + "x" * 99, 8) == "a b xxx…"
