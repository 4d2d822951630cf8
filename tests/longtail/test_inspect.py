import json

import pytest

from saddlescope.longtail import describe, describe_text, load_data


@pytest.fixture(scope="module")
def data():
    return load_data("digits", imbalance_factor=20)


def test_the_description_is_json_and_adds_up(data):
    description = describe(data)
    assert json.loads(json.dumps(description)) == description
    assert description["train_images"] == sum(description["counts"]) == 438
    assert description["test_images"] == 440
    groups = description["groups"]
    assert groups["head"]["share"] + groups["tail"]["share"] == pytest.approx(1)
    assert sum(groups[s]["train_images"] for s in ("many", "medium", "few")) == 438
    assert groups["tail"]["classes"] == [5, 6, 7, 8, 9]
    assert description["checksums"]["train"] == data.train.checksum


def test_the_text_is_aligned_and_complete(data):
    text = describe_text(describe(data))
    lines = text.splitlines()
    assert "imbalance     20 (exp, first of each class)" in lines
    assert "tail        68   15.53%        5  5-9" in lines
    assert "    9       6  9" in lines
    assert data.checksum in text
    assert all(line == line.rstrip() for line in lines)


def test_the_text_shows_gaps_nothing_and_the_seed(data):
    description = describe(data) | {"subset": "shuffled", "subset_seed": 3}
    description["groups"] = {
        "few": {"classes": [], "train_images": 0, "share": 0.0},
        "odd": {"classes": [0, 1, 2, 7], "train_images": 5, "share": 0.5},
    }
    text = describe_text(description)
    assert "few         0   0.00%        0  -" in text
    assert "4  0-2, 7" in text
    assert "shuffled of each class, seed 3" in text
