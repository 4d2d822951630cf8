"""Processes that are fresh to saddlescope, without the seconds that torch takes to import.

A server imports what we did not write, and nothing of saddlescope. Every process is a fork of it
and runs a module or a script, as `python -m MODULE` or `python SCRIPT` would. A second server has
imported saddlescope too: its processes are not fresh to it, and begin with their work.
"""

import atexit
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OTHERS = (
    "torch", "torch._dynamo", "torch.func", "torch.distributed", "numpy", "pandas", "scipy.linalg",
    "scipy.sparse.linalg", "scipy.stats", "matplotlib.pyplot", "matplotlib.backends.backend_svg",
    "matplotlib.backends.backend_pdf", "jinja2", "sklearn.datasets", "safetensors.torch",
    "PIL.Image", "pydantic", "tomli_w", "typer.main", "rich.progress",
)  # fmt: skip

OURS = tuple(f"saddlescope.{n}" for n in ("cli.main", "training", "measurement", "reporting"))

SERVER = """
import gc, importlib, json, os, runpy, select, signal, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
ours = [name for name in sys.modules if name.partition(".")[0] == "saddlescope"]
assert bool(ours) == (sys.argv[2] == "warm")
gc.collect()
gc.freeze()  # or each process would look through, and so copy, all that it shares with this one
running = {}
while True:
    for ready in select.select([0, *running], [], [])[0]:
        if ready in running:
            ended = running.pop(ready)
            os.close(ready)
            code = os.waitstatus_to_exitcode(os.waitpid(ended, 0)[1])
            print(json.dumps({"ended": ended, "code": code}), flush=True)
            continue
        line = sys.stdin.readline()
        if not line:  # the tests have ended, and nothing outlives them
            for descriptor in running:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            sys.exit()
        call = json.loads(line)
        if child := os.fork():
            running[os.pidfd_open(child)] = child
            print(json.dumps({"began": child}), flush=True)
            continue
        for number, path in enumerate((os.devnull, call["stdout"], call["stderr"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
        os.chdir(call["folder"])
        os.environ.clear()
        os.environ.update(call["environment"])
        sys.argv[:] = [call["target"], *call["words"]]
        exec(call["before"], {})
        script = call["target"].endswith(".py")
        sys.path[0] = os.path.dirname(call["target"]) if script else call["folder"]
        if script:
            runpy.run_path(call["target"], run_name="__main__")
        else:
            runpy.run_module(call["target"], run_name="__main__", alter_sys=True)
        sys.exit()
"""


@functools.cache
def _server(warm: bool) -> "_Server":
    return _Server(warm)


class _Server:
    def __init__(self, warm: bool) -> None:
        names = json.dumps([*OTHERS, *OURS] if warm else OTHERS)
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, names, "warm" if warm else "fresh"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        self.codes: dict[int, int] = {}
        self.room = tempfile.mkdtemp(prefix="fresh-")
        atexit.register(self._end)

    def _end(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        shutil.rmtree(self.room, ignore_errors=True)

    def begin(self, **call: object) -> int:
        self._process.stdin.write(json.dumps(call).encode() + b"\n")
        while (said := self._hear()) is None or "began" not in said:
            pass
        return said["began"]

    def listen(self, seconds: float) -> None:
        """Take in what has ended, waiting for it no longer than that."""
        while select.select([self._process.stdout], [], [], seconds)[0]:
            self._hear()
            seconds = 0.0

    def _hear(self) -> dict[str, int]:
        line = self._process.stdout.readline()
        assert line, "the server of fresh processes has ended"
        said = json.loads(line)
        if "ended" in said:
            self.codes[said["ended"]] = said["code"]
        return said


@dataclass
class Fresh:
    """A process that was started, with what the tests use of `subprocess.Popen`."""

    pid: int
    streams: Path
    server: _Server

    @property
    def returncode(self) -> int | None:
        return self.server.codes.get(self.pid)

    @property
    def stdout(self) -> str:
        return (self.streams / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.streams / "stderr").read_text()

    def poll(self) -> int | None:
        self.server.listen(0.0)
        return self.returncode

    def wait(self, timeout: float = 900.0) -> int:
        until = time.monotonic() + timeout
        while self.poll() is None:
            left = until - time.monotonic()
            assert left > 0.0, f"still running after {timeout} s: {self.stderr}"
            self.server.listen(left)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    target: str | Path,
    *words: object,
    cwd: str | Path = ".",
    before: str = "",
    warm: bool = False,
    **variables: str,
) -> Fresh:
    """Start a module or a script.

    Args:
        target: such as "saddlescope", or a path that ends in .py.
        *words: its arguments.
        cwd: where it runs.
        before: code that it runs first.
        warm: with saddlescope imported, but for what a command imports itself.
        **variables: of its environment, beside ours.
    """
    server = _server(warm)
    streams = Path(tempfile.mkdtemp(dir=server.room))
    places = {name: str(streams / name) for name in ("stdout", "stderr")}
    for place in places.values():
        Path(place).touch()
    pid = server.begin(
        target=str(target), words=[str(word) for word in words], folder=str(Path(cwd).resolve()),
        environment={**os.environ, **variables}, before=before, **places,
    )  # fmt: skip
    return Fresh(pid, streams, server)


def run(target: str | Path, *words: object, **options: Any) -> Fresh:
    """Run it to its end; see `start`."""
    process = start(target, *words, **options)
    process.wait()
    return process
