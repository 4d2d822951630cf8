"""The visit to a GPU, rehearsed on a CPU: stages alone, a rule fixed beforehand, no waste."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import CLONE, environment
from benchmarks.visit import __main__ as visit
from benchmarks.visit.training import decide


def from_the_shell(folder, *more):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.visit", "-o", str(folder), *more], cwd=CLONE,
        capture_output=True, text=True, check=False, env=environment(OMP_NUM_THREADS="1"),
    )  # fmt: skip


def rehearse(folder, *more):
    return from_the_shell(folder, "--device", "cpu", "--rehearse", *more)


@pytest.mark.parametrize(
    ("seconds", "two", "methods", "epochs"),
    [(1.9, 1.2, 5, 200), (2.1, 1.2, 5, 100), (3.8, 1.5, 5, 100), (4.1, 2.0, 3, 180),
     (40.0, 20.0, 3, 20), (4.1, 0.5, 3, 200)],
)  # fmt: skip
def test_the_rule_is_that_of_the_plan(seconds, two, methods, epochs):
    """All five with 200 epochs up to 420 s, with 100 up to 800 s, else the two that matter most."""
    found = decide(seconds, two_an_epoch=two, sse_an_epoch=0.6)
    assert (len(found["methods"]), found["epochs"]) == (methods, epochs)
    assert found["projected"] == pytest.approx(200 * seconds + 60 * 0.6)


def options_for(tmp_path, stages, minutes=5.0):
    return SimpleNamespace(
        output=tmp_path, device="cpu", rehearse=True, data_root=None, run=[], stages=stages,
        minutes=minutes,
    )  # fmt: skip


def test_a_stage_that_fails_or_stops_does_not_stop_the_next_and_is_run_again(tmp_path, monkeypatch):
    codes = {"a": [0], "b": [1, 0], "c": [-11, 0], "d": [130, 0]}
    told = []

    def run(stage, seconds, options):
        told.append((stage, seconds))
        (options.output / f"{stage}.log").write_text("first\nlast words\n")
        return codes[stage].pop(0)

    monkeypatch.setattr(visit, "run_stage", run)
    options = options_for(tmp_path, list("abcd"))
    assert visit.visit(options) == {"a": "done", "b": "failed", "c": "failed", "d": "stopped"}
    states = json.loads((tmp_path / "visit.json").read_text())
    assert states["b"]["said"] == "last words"
    assert visit.visit(options) == dict.fromkeys("abcd", "done")
    assert [stage for stage, _ in told] == [*"abcd", *"bcd"]
    assert all(seconds <= visit.STAGES[stage] for stage, seconds in told)


def test_no_stage_begins_without_time(tmp_path, monkeypatch):
    monkeypatch.setattr(visit, "run_stage", lambda *_: pytest.fail("there is no time"))
    assert visit.visit(options_for(tmp_path, ["a"], minutes=0.1)) == {"a": None}


def test_a_stage_that_outlasts_its_limit_is_ended(tmp_path, monkeypatch):
    """With all that it has started."""
    (tmp_path / "deaf.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\ntime.sleep(60)\n"
    )
    monkeypatch.setattr(visit, "CLONE", tmp_path)
    monkeypatch.setattr(visit, "MODULE", "deaf")
    monkeypatch.setattr(visit, "GRACE", 0.2)
    options = options_for(tmp_path, ["a"])
    assert visit.run_stage("a", 1.5, options) == visit.INTERRUPTED
    assert "deaf" in (tmp_path / "a.log").read_text()


@pytest.mark.slow
def test_two_stages_from_the_shell_and_a_second_visit_that_finds_them_done(tmp_path):
    first = rehearse(tmp_path, "--stages", "a,c")
    assert first.returncode == 0, first.stdout + first.stderr
    machine = json.loads((tmp_path / "a.json").read_text())
    assert machine["packages"]["missing"] == []
    products = json.loads((tmp_path / "c.json").read_text())
    assert {key.split("/")[1] for key in products} == {"double-backward", "traced", "replayed"}
    assert all(one["error"] < 1e-5 for one in products.values())
    again = rehearse(tmp_path, "--stages", "a,c")
    assert again.stdout.splitlines() == ["a: done before", "c: done before"]


def test_wrong_words_are_refused(tmp_path):
    found = rehearse(tmp_path, "--stages", "a,z")
    assert found.returncode == 2
    assert "stage 'z': expected a, b, c, d, e, f" in found.stderr
    found = from_the_shell(tmp_path)
    assert found.returncode == 2
    assert "name its folder with --data-root" in found.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    "SADDLESCOPE_REHEARSE" not in os.environ,
    reason="the whole rehearsal takes a minute and a half: set SADDLESCOPE_REHEARSE=1",
)
def test_the_whole_rehearsal(tmp_path):
    found = rehearse(tmp_path, "--minutes", "8")
    assert found.returncode == 0, found.stdout + found.stderr
    trained = json.loads((tmp_path / "e.json").read_text())
    assert trained["training"]["reached"]["sse-sam"]["epochs"] == 4
    assert len([key for key in trained if key.startswith("spectrum/")]) == 10
    branch = json.loads(next((tmp_path / "fig4").glob("*sse-sam*/run.json")).read_text())["branch"]
    assert branch["epochs"] == 3
