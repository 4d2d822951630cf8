"""A record goes on where it stopped, and refuses what would not compare."""

import json

import pytest
import torch

from benchmarks.compare import Record, carry_out, read_record
from benchmarks.compare.record import Unit
from saddlescope.curvature.objective.state import tf32
from saddlescope.errors import DataError, Interrupted, UsageError


class Units:
    """A plan of units that count how often they are measured."""

    def __init__(self, *keys, fails=None):
        self.keys, self.fails, self.measured = keys, fails, []

    def units(self):
        def of(key):
            def measure(record):
                if key == self.fails:
                    raise RuntimeError("killed")
                self.measured.append(key)
                return {"seen": sorted(k for k in self.keys if k in record)}

            return Unit(key, measure)

        return [of(key) for key in self.keys]


def test_it_goes_on_where_it_was_killed(tmp_path):
    path = tmp_path / "bench.json"
    with pytest.raises(RuntimeError):
        carry_out(Units("a", "b", "c", fails="b"), Record(path, device="cpu"))
    plan = Units("a", "b", "c")
    assert carry_out(plan, Record(path, device="cpu")) == 0
    assert plan.measured == ["b", "c"]
    content = read_record(path)
    assert content["units"]["c"]["seen"] == ["a", "b"]
    assert [content["units"][key]["process"] for key in "abc"] == [0, 1, 1]
    assert len(content["processes"]) == 2


def test_a_unit_named_twice_is_measured_once(tmp_path):
    plan = Units("a", "a")
    carry_out(plan, Record(tmp_path / "bench.json", device="cpu"))
    assert plan.measured == ["a"]


def test_out_of_time_nothing_more_is_begun(tmp_path):
    plan = Units("a", "b")
    path = tmp_path / "bench.json"
    assert carry_out(plan, Record(path, device="cpu"), time_limit=-1.0) == 2
    assert plan.measured == []
    assert not path.exists()


def test_stopped_between_units(tmp_path):
    plan = Units("a", "b")
    with pytest.raises(Interrupted, match="1 units left"):
        carry_out(
            plan, Record(tmp_path / "bench.json", device="cpu"), stop=lambda: bool(plan.measured)
        )
    assert plan.measured == ["a"]


def test_other_threads_are_refused(tmp_path):
    path = tmp_path / "bench.json"
    carry_out(Units("a"), Record(path, device="cpu"))
    content = json.loads(path.read_text())
    content["processes"][0]["threads"] = torch.get_num_threads() + 1
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="threads"):
        Record(path, device="cpu")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"schema": 99}', "{", '{"schema": 1}', '{"schema": 1, "processes": [], "units": 3}',
     '{"schema": 1, "processes": [{}], "units": {}}',
     '{"schema": 1, "processes": [], "units": {"a": 1}}'],
)  # fmt: skip
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(DataError, match="benchmark record"):
        read_record(path)
    with pytest.raises(DataError):
        Record(path, device="cpu")


def test_no_folder_of_the_machine_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/saddlescope", "bench", "--run", str(tmp_path / "r")])
    path = tmp_path / "bench.json"
    carry_out(Units("a"), Record(path, device="cpu"))
    assert str(tmp_path) not in path.read_text()
    assert read_record(path)["processes"][0]["command"] == ["saddlescope", "bench", "--run", "r"]


def test_every_tool_is_timed_without_tf32_and_the_record_says_so(tmp_path):
    """Otherwise peers would compute in TF32 and be held to float64."""
    seen = []

    class Plan:
        def units(self):
            get = torch._C._get_fp32_precision_getter
            yield Unit("one", lambda _: seen.append(get("cuda", "conv")) or {"value": 1})

    record = Record(tmp_path / "bench.json", device="cpu")
    with tf32(allowed=True):
        carry_out(Plan(), record)
    assert seen == ["ieee"]
    (process,) = read_record(tmp_path / "bench.json")["processes"]
    assert process["precision"]["convolution"] == "ieee"
