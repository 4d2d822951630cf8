"""A table of classes: one setting for all, and the instrument as one job."""

import dataclasses

import pytest
import torch

from benchmarks.compare import Cases, Record, carry_out, read_record
from benchmarks.compare.table import TABLE_CLASSES, table_units
from benchmarks.compare.tables import TABLES
from benchmarks.compare.tools import TOOLS, Answer


class OneForAll:
    """Every class is the MLP, of one network and one criterion."""

    def __init__(self):
        self.device = torch.device("cpu")
        self._problem = Cases().problem("mlp")

    def problem(self, name):
        return dataclasses.replace(self._problem, name=name)


class Fake:
    """Right in some settings, in a known number of products."""

    package, key, gives_both, rehearses = "saddlescope", "fake", True, True
    brief, defaults = {}, [{}]

    def __init__(self, truth, *settings, ordered):
        self.truth, self.ordered = truth, ordered
        self._settings = [{"m": m, "right": right} for m, right in settings]

    def settings(self):
        return self._settings

    def ends(self, problem, setting, seed, *, multiply=None):
        share = 1.0 if setting["right"] else 2.0
        top, bottom = self.truth
        return Answer(share * top, share * bottom, setting["m"], "nothing")


class Plan:
    def __init__(self, *tools):
        self.tools = tools

    def units(self):
        return table_units(OneForAll(), self.tools, every=False)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    record = Record(tmp_path_factory.mktemp("table") / "bench.json", device="cpu")
    carry_out(Plan(TOOLS["saddlescope"], TOOLS["saddlescope (bare)"]), record)
    return record


@pytest.fixture
def record(ours, tmp_path):
    """A record that knows the truths, which are the dear part, and nothing else."""
    found = Record(tmp_path / "bench.json", device="cpu")
    for name in TABLE_CLASSES:
        found.put(f"truth/resnet32-class-{name}", ours[f"truth/resnet32-class-{name}"])
    return found


def test_the_instrument_measures_all_classes_as_one_job(ours):
    found = ours["table/ten/saddlescope"]
    assert len(found["rows"]) == len(TABLE_CLASSES)
    assert all(row["verified"] for row in found["rows"])
    assert found["products"] == sum(row["products"] for row in found["rows"])
    assert "table/ten/saddlescope (bare)" not in ours


@pytest.mark.parametrize(("ordered", "chosen"), [(True, 30), (False, 20)])
def test_one_setting_for_all_is_the_cheapest_that_is_right(ordered, chosen, record):
    truth = record["truth/resnet32-class-99"]
    settings = ((10, False), (30, True), (20, True))
    fake = Fake((truth["lambda_max"], truth["lambda_min"]), *settings, ordered=ordered)
    carry_out(Plan(fake), record)
    assert record["table/setting/fake"]["setting"]["m"] == chosen
    assert all(record[f"table/ten/fake/resnet32-class-{c}"]["verified"] for c in TABLE_CLASSES)
    # The instrument is measured where it was asked for.
    assert "table/ten/saddlescope" not in record


def test_no_setting_is_said_and_has_no_row(record):
    carry_out(Plan(Fake((1.0, -1.0), (10, False), ordered=True)), record)
    assert record["table/setting/fake"]["setting"] is None
    assert "right on every class" in record["table/ten/fake/resnet32-class-99"]["reason"]
    assert TABLES["table"][1](read_record(record.path)) == ""
