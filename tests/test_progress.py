"""What is shown while something computes: on a terminal, in a notebook, and nothing into a pipe.

The clock is set by hand where times count.
"""

import math
import os
import pty
import re
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

import saddlescope.stages as shown
from saddlescope.curvature import (
    HessianOperator,
    MatrixOperator,
    TensorSamples,
    bootstrap_spectra,
    class_spectra,
    extreme_eigenvalues,
    loss_plane,
    loss_slice,
    select_subsets,
    spectral_density,
    top_eigenpairs,
    trace,
)
from saddlescope.measurement import Target, check_target
from saddlescope.stages import Pace, Stage, counted, progress, span
from saddlescope.theory import STATEMENTS, check, find_counterexample

COMMAND = """
import sys
import saddlescope.stages
saddlescope.stages._Bar.patience = saddlescope.stages._Log.patience = {patience}
with saddlescope.stages.progress():
    for number in saddlescope.stages.counted("loop", range(2)):
        print("data", number)
from saddlescope.cli.main import run
sys.argv = ["saddlescope", "theory", "proposition4", "--trials", "30000"]
run()
"""


def command(*, terminal, patience):
    """stdout and stderr of a command, stderr being a terminal or a pipe."""
    words = [sys.executable, "-c", COMMAND.format(patience=patience)]
    if not terminal:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:  # the other end is closed
            pass
        out = process.stdout.read().decode()
    os.close(ours)
    assert process.returncode == 0
    return out, said.decode()


def test_a_terminal_sees_a_bar_that_goes_and_stdout_does_not():
    out, said = command(terminal=True, patience=0.0)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert re.search(r"proposition4 [━╸╺]+ +\d+ %  ", plain), said
    assert "trials" in plain
    # The line is erased when its loop is done, and the cursor is there again.
    assert said.rindex("\x1b[2K") > said.rindex("━")
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")
    assert out.startswith("data 0\ndata 1\nstatement,variant,")
    assert "━" not in out


def test_a_pipe_sees_plain_lines():
    _, said = command(terminal=False, patience=0.0)
    assert re.search(r"(?m)^proposition4: \d+ %  .*trials$", said)
    assert "\x1b" not in said


class Recorder:
    """A picture that keeps what it is given."""

    patience = every = 0.0

    def __init__(self):
        self.drawn, self.closed = [], 0

    def draw(self, label, share, words):
        self.drawn.append((label, share, words))

    def close(self):
        self.closed += 1


@pytest.fixture
def picture(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(shown, "_picture", lambda _: recorder)
    return recorder


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(time=0.0)
    monkeypatch.setattr(shown.time, "perf_counter", lambda: now.time)
    return now


def left(picture):
    """What each picture says of the time left; None where it says nothing."""
    found = [re.match(r"(.*) left  ", words) for _, _, words in picture.drawn]
    return [match and match[1] for match in found]


class TestPace:
    def test_the_first_piece_of_each_kind_does_not_count(self, clock):
        pace = Pace()
        assert math.isnan(pace.speed)
        for seconds, kind in ((200.0, "a"), (2.0, "a"), (300.0, "b"), (4.0, "b"), (2.0, "a")):
            clock.time += seconds
            pace.add(16.0, kind)
        assert pace.speed == pytest.approx(48.0 / 8.0)

    def test_it_forgets_the_pace_and_not_the_kinds(self, clock):
        pace = Pace()
        clock.time = 100.0
        pace.add(1.0)
        clock.time = 500.0
        pace.begin()
        assert math.isnan(pace.speed)
        clock.time = 502.0
        pace.add(1.0)
        assert pace.speed == pytest.approx(0.5)


class TestLine:
    def test_the_time_left_is_that_of_the_pieces_after_the_first(self, picture, clock):
        with progress():
            for index in counted("work", range(5)):
                clock.time += 1000.0 if index == 0 else 60.0
        assert [round(share, 3) for _, share, _ in picture.drawn] == [0, 0.2, 0.4, 0.6, 0.8, 1]
        assert left(picture) == [
            None, None, "3 min 00 s", "2 min 00 s", "1 min 00 s", "0 s",
        ]  # fmt: skip

    def test_a_loop_within_a_loop_moves_its_part_of_the_bar(self, picture, clock):
        with progress():
            for _ in counted("row", "ab", sizes=[3.0, 1.0], text=lambda name: f"class {name}"):
                for _ in counted("product", range(2)):
                    clock.time += 1.0
        shares = [share for _, share, _ in picture.drawn]
        assert shares == pytest.approx([0, 0, 0.375, 0.75, 0.75, 0.75, 0.875, 1, 1])
        assert {label for label, _, _ in picture.drawn} == {"row"}
        assert picture.drawn[2][2].endswith("class a: product 2/2")

    def test_a_search_expects_more_when_it_has_taken_what_was_expected(self, picture):
        with progress():
            for index in counted("search", range(100), expect=10):
                if index == 39:
                    break
        shares = [share for _, share, _ in picture.drawn]
        assert shares[5] == pytest.approx(0.5)
        assert shares[-1] == pytest.approx(39 / 44)
        assert shares == sorted(shares)

    def test_what_an_error_leaves_behind_is_gone(self, picture):
        with progress():
            kept = []
            for _ in counted("outer", range(2)):
                try:
                    for _ in counted("inner", range(2)):
                        raise ValueError("no")
                except ValueError as error:
                    kept.append(error)  # with the frames of the inner loop
            with Stage("next") as stage:
                stage.update(0.5, lambda: "half")
        assert picture.drawn[-1] == ("next", 0.5, "half")

    def test_a_pipe_is_told_once_a_minute_and_only_if_asked_for(self, clock, capsys):
        lines = []
        for log in (lines.append, None):
            with progress(log):
                for _ in counted("work", range(40)):
                    clock.time += 5.0
        assert lines == [
            "work: 30 %  2 min 20 s left  work 13/40",
            "work: 60 %  1 min 20 s left  work 25/40",
            "work: 90 %  20 s left  work 37/40",
        ]
        assert capsys.readouterr() == ("", "")

    def test_rows_that_are_there_already_take_no_time(self, picture, clock):
        with progress():
            for name in counted("rows", "abcd", sizes=[0.0, 0.0, 1.0, 1.0]):
                clock.time += 60.0 if name in "cd" else 0.0
        assert [share for _, share, _ in picture.drawn] == pytest.approx([0, 0, 0, 0.5, 1])

    def test_a_bar_within_a_bar_is_the_outer_one(self, picture):
        with progress():
            with progress():
                list(counted("one", range(1)))
            closed = picture.closed
            list(counted("two", range(1)))
        assert {label for label, _, _ in picture.drawn} == {"one", "two"}
        assert picture.closed > closed

    def test_nobody_watches(self, picture):
        assert list(counted("work", range(3))) == [0, 1, 2]
        with Stage("work") as stage:
            stage.update(0.5, lambda: pytest.fail("asked for what nobody sees"))
        assert not picture.drawn

    def test_ranks_other_than_the_first_are_quiet(self, picture, monkeypatch):
        monkeypatch.setattr(shown, "leads", lambda: False)
        with progress():
            list(counted("work", range(3)))
        assert not picture.drawn


def test_a_notebook_sees_one_line_under_the_cell(monkeypatch):
    lines = []
    handle = types.SimpleNamespace(update=lambda data, raw: lines.append(data["text/plain"]))

    def display(data, *, raw, display_id):
        lines.append(data["text/plain"])
        return handle

    kernel = types.SimpleNamespace(kernel="a kernel")
    package = types.SimpleNamespace(get_ipython=lambda: kernel)
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setattr(shown._Cell, "patience", 0.0)
    monkeypatch.setattr(shown._Cell, "every", 0.0)
    with progress():
        list(counted("density", range(4)))
    assert lines[0].startswith("density ╌╌╌")
    assert "━━━━━╌" in lines[1]
    assert lines[-1] == ""


def test_span():
    assert [span(s) for s in (0.4, 59.6, 200, 3900)] == [
        "0 s", "1 min 00 s", "3 min 20 s", "1 h 05 min",
    ]  # fmt: skip


def matrix():
    return MatrixOperator(torch.diag(torch.linspace(-1.0, 3.0, 12, dtype=torch.float64)))


def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double().eval()
    samples = TensorSamples(torch.randn(12, 3).double(), torch.arange(12) % 2)
    return model, nn.CrossEntropyLoss(), samples


def objective():
    model, criterion, samples = problem()
    return HessianOperator(model, criterion, [(samples.values, samples.targets)]).objective


def checked():
    model, criterion, samples = problem()
    return Target(model=model, criterion=criterion, samples=samples, identity={})


def resampled():
    model, criterion, samples = problem()
    (subset,) = select_subsets(samples, classes="none", groups=("all",))
    return bootstrap_spectra(model, criterion, samples, subset, resamples=19)


STATEMENT = STATEMENTS["proposition4"][0]
WATCHED = {
    "eigenvalues": lambda: extreme_eigenvalues(matrix()),
    "eigenpairs": lambda: top_eigenpairs(matrix(), k=2),
    "density": lambda: spectral_density(matrix(), steps=5, probes=3),
    "trace": lambda: trace(matrix(), probes=3, deflation=2),
    "spectrum": lambda: class_spectra(*problem()),
    "bootstrap": resampled,
    "slice": lambda: loss_slice(objective(), torch.ones(14).double(), [-0.1, 0.0, 0.1]),
    "plane": lambda: loss_plane(
        objective(), torch.ones(14).double(), torch.eye(14).double()[0], [-0.1, 0.1]
    ),
    "check": lambda: check_target(checked(), classes=[0], samples=3),
    "proposition4": lambda: check(STATEMENT, trials=5000),
    "shape": lambda: find_counterexample(STATEMENT, trials=100, rounds=2),
}


@pytest.mark.parametrize("label", list(WATCHED))
def test_what_takes_long_says_how_far_it_is(picture, label):
    with progress():
        WATCHED[label]()
    mine = [(share, words) for said, share, words in picture.drawn if said == label]
    assert len(mine) > 2
    assert all(0.0 <= share <= 1.0 for share, _ in mine)
    assert max(share for share, _ in mine) > 0.3
    assert all(words for _, words in mine[1:])
