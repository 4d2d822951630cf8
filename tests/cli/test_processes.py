"""Processes and streams: what is started ends with us, what is printed arrives or is missed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from saddlescope.cli.console import number_list, say
from saddlescope.cli.main import app
from saddlescope.errors import ExitCode, UsageError
from saddlescope.runs import RunFolder, own_process
from tests import fresh

SWEEP = """
extends = "package:digits-lt"
name = "s"
[training]
epochs = 40
[[sweep]]
"training.seed" = [0, 1]
"""
OURS = [sys.executable, "-P", "-m", "saddlescope"]


@pytest.fixture
def start():
    """Start the command; none outlives its test."""
    begun = []

    def begin(*words, **options):
        begun.append(subprocess.Popen([*OURS, *map(str, words)], text=True, **options))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def below(process):
    """Numbers of the processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(stat.parent.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def is_gone(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def until(condition, seconds=300.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.mark.slow
def test_a_killed_sweep_takes_its_children_along_and_its_folder_none_of_its_modules(
    tmp_path, start
):
    for name in ("torch", "numpy", "json", "saddlescope", "runpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    recipe, out = tmp_path / "s.toml", tmp_path / "out"
    recipe.write_text(SWEEP)
    words = ("train", recipe, "-o", out)
    process = start(*words, cwd=tmp_path, stderr=subprocess.DEVNULL)
    metrics = RunFolder(out / "s-sgd-seed0").metrics_file
    until(lambda: metrics.is_file() or process.poll() is not None)
    assert process.poll() is None
    children = below(process.pid)
    process.kill()
    process.wait()
    until(lambda: all(map(is_gone, children)), 30.0)
    assert children
    assert not (tmp_path / "owned").exists()
    again = start(*words, cwd=tmp_path, stderr=subprocess.PIPE)
    until(lambda: below(again.pid))
    time.sleep(1.0)
    assert is_gone(again.pid) is False  # not refused by a lock that nobody holds
    again.terminate()
    _, said = again.communicate(timeout=300)
    assert again.returncode == ExitCode.INTERRUPTED, said
    assert "another process" not in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_told_to_end_or_killed_ends_with_all_its_processes(tmp_path, number):
    process = fresh.start("saddlescope", "demo", "-o", tmp_path / "demo", "--jobs", "1")
    until(lambda: list(tmp_path.glob("demo/*/metrics.jsonl")))
    children = below(process.pid)
    process.send_signal(number)
    process.wait(300)
    until(lambda: all(map(is_gone, children)), 30.0)
    assert "Traceback" not in process.stderr
    if number == signal.SIGTERM:
        assert process.returncode == ExitCode.INTERRUPTED
        assert "run the command again to go on" in process.stderr


@pytest.mark.slow
def test_a_demo_whose_processes_are_all_told_to_end_ends(tmp_path):
    """As a job queue and `timeout` do; those that are busy hear of it again from the first."""
    words = ("demo", "-o", tmp_path / "demo", "--jobs", "2")
    process = fresh.start("saddlescope", *words, before="import os; os.setsid()")
    until(lambda: len(list(tmp_path.glob("demo/*/metrics.jsonl"))) == 2)
    children = below(process.pid)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == ExitCode.INTERRUPTED
    until(lambda: all(map(is_gone, children)), 30.0)
    assert "Traceback" not in process.stderr
    assert "run the command again to go on" in process.stderr


@pytest.mark.slow
def test_ctrl_c_while_the_processes_of_a_demo_import_is_one_line(tmp_path):
    """A terminal sends it to all of them."""
    process = fresh.start("saddlescope", "demo", "-o", tmp_path / "demo", "--jobs", "1")
    until(lambda: len(below(process.pid)) > 1)  # multiprocessing's own, and a worker
    for _ in range(20):
        for child in below(process.pid):
            os.kill(child, signal.SIGINT)
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == ExitCode.INTERRUPTED
    assert "Traceback" not in process.stderr
    assert "run the command again to go on" in process.stderr


def test_a_child_whose_parent_has_gone_before_it_asked_ends():
    code = (
        "import os, subprocess, sys\n"
        "from saddlescope.runs import own_process\n"
        "words = own_process('timeit', ['-n', '1', 'import time; time.sleep(60)'])\n"
        "print(subprocess.Popen(words, stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    until(lambda: is_gone(int(done.stdout)), 100.0)


def test_our_processes_do_not_search_the_current_folder(tmp_path):
    (tmp_path / "antigravity.py").write_text("print('owned')")
    words = own_process("timeit", ["-n", "1", "-r", "1", "import sys; print(sys.path)"])
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    paths = done.stdout.split("]")[0]
    assert "''" not in paths
    assert str(tmp_path) not in paths


HORIZONS = ("theory", "horizons", "--dimensions", "1", "--alignments", "0.5")


@pytest.mark.parametrize(
    ("words", "redirect", "code", "said"),
    [
        (HORIZONS, ">/dev/full", ExitCode.FAILED, "No space left"),
        # What imports no torch is told of its streams in the same way.
        (["--version"], ">/dev/full", ExitCode.FAILED, "No space left"),
        (["--version"], ">&-", ExitCode.FAILED, "standard output is closed"),
        (["--version"], "2>&-", 0, ""),
        (["--version"], ">/dev/null", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(words, redirect, code, said):
    line = f"{' '.join(map(repr, [*OURS, *words]))} {redirect}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == (1 if code else 0)


def test_a_name_that_is_not_text_is_printed_as_it_is(tmp_path):
    out = os.fsencode(tmp_path) + b"/r\xff\x1b[31m"
    words = [*OURS, "train", "package:digits-lt", "--set", "training.epochs=1", "-o", out]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == out + b"\n"
    assert b"\x1b" not in done.stderr
    assert b"\\x1b[31m" in done.stderr


def test_what_acts_on_a_terminal_is_shown_as_its_escape(capsys):
    say("a\x1b[31mb\u202ec\nλ ∇")
    assert capsys.readouterr().err == "a\\x1b[31mb\\u202ec\nλ ∇\n"


@pytest.mark.parametrize("text", ["0-99999999", "²", "0-²", "9" * 5000, "0-" + "9" * 30, "1,,2"])
def test_lists_of_numbers_have_an_end(text):
    with pytest.raises(UsageError) as refused:
        number_list(text)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("text", ["9-8", "0,9-8", "2-0,1"])
def test_a_range_that_goes_down_is_refused(text):
    with pytest.raises(UsageError, match="lower first"):
        number_list(text)


def test_threads_have_an_end():
    done = CliRunner().invoke(app, ["train", "package:digits-lt", "--threads", "99999999999"])
    assert done.exit_code == ExitCode.USAGE


def test_one_broken_metrics_file_does_not_end_all_figures(tmp_path):
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        words = ["train", "package:digits-lt", "--set", "training.epochs=1", "-o", str(runs / name)]
        assert CliRunner().invoke(app, words).exit_code == 0
    words = ["spectrum", str(runs / "a"), "--classes", "none", "--groups", "all", "--rtol", "0.5"]
    assert CliRunner().invoke(app, words).exit_code == 0
    (runs / "b" / "metrics.jsonl").write_text('{"loss": 1}\n{broken\n{"epoch": 1}\n')
    words = ["figure", "phase", str(runs), "-o", str(tmp_path / "out"), "--formats", "svg"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (runs / "a" / "metrics.jsonl").write_text('{"loss": 1}\n')
    done = CliRunner().invoke(app, ["theory", "phase", str(runs / "a")])
    assert done.exit_code == 0, done.output
