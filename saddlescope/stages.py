"""How far a computation is and how long it will take, for whoever waits.

    with saddlescope.progress():
        spectral_density(H)

A terminal shows a bar that is redrawn, a notebook a line under the cell, anything else nothing. A
loop that takes long goes over `counted(…)`, and loops within it share its bar; nobody has to hand
anything on. Where nobody watches, that costs one look at a variable a loop.
"""

import importlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from saddlescope.parallel import leads

_Item = TypeVar("_Item")

_PATIENCE = 0.5
"""Seconds that something may take without being shown."""

_REDRAWN = 0.2
"""Seconds between two pictures."""


@contextmanager
def progress(log: Callable[[str], None] | None = None) -> Iterator[None]:
    """Show how far what runs inside is, with the time left; of several ranks rank 0 shows it.

    Args:
        log: where stderr is neither a terminal nor a notebook's, called once a minute with a line;
            None stays quiet there.
    """
    picture = _picture(log)
    if picture is None or _shown.get() is not None or not leads():  # one bar, the outermost
        yield
        return
    line = _Line(picture)
    before = _shown.set(line)
    try:
        yield
    finally:
        _shown.reset(before)
        picture.close()


def counted(
    label: str,
    items: Iterable[_Item],
    *,
    sizes: Sequence[float] | None = None,
    total: int | None = None,
    expect: int | None = None,
    text: Callable[[_Item], str] | None = None,
) -> Iterator[_Item]:
    """Yield the items, and tell whoever watches how many are done.

    Args:
        label: what one of them is; of the outermost loop it stands before the bar.
        items: to go over.
        sizes: how long each takes, in any unit; by default all alike.
        total: how many there are, where they have no length.
        expect: about how many will be taken, where the loop ends when it has found something;
            beyond them a tenth more is expected.
        text: says of an item what is going on, asked only when it is shown; by default its number.
    """
    if _shown.get() is None:
        yield from items
        return
    parts = None if sizes is None else list(sizes)
    count = len(items) if isinstance(items, Sized) else total or 0
    whole, done, number = float(count if parts is None else sum(parts)), 0.0, 0

    def says() -> str:
        return f"{label} {number}/{count}" if text is None else text(item)

    with Stage(label) as stage:
        for number, item in enumerate(items, start=1):
            size = 1.0 if parts is None else parts[number - 1]
            if expect is not None:
                whole = min(float(count), max(float(expect), 1.1 * number))
            stage.update(done / whole if whole else 0.0, says, width=size / whole if whole else 0.0)
            yield item
            done += size
            stage.share = done / whole if whole else 1.0  # for what a generator does for the next
        stage.update(1.0)


class Pace:
    """Work done a second, without the first piece of each kind: that compiles and fills caches."""

    def __init__(self) -> None:
        self._known: set[object] = set()
        self.begin()

    def begin(self) -> None:
        """Forget the pace so far, and take what comes next as begun now; kinds stay known."""
        self._last, self._seconds, self._work = time.perf_counter(), 0.0, 0.0

    def add(self, work: float, kind: object = None) -> None:
        """Count a piece that has just ended, begun when the one before it ended."""
        now = time.perf_counter()
        if kind in self._known:
            self._seconds += now - self._last
            self._work += work
        self._known.add(kind)
        self._last = now

    @property
    def speed(self) -> float:
        """Return work a second; NaN before there is a second piece of any kind."""
        return self._work / self._seconds if self._work > 0 and self._seconds > 0 else math.nan


class Stage:
    """Something under way: one bar, or inside another stage a part of its bar.

    Args:
        label: what.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.share = self.width = 0.0
        self.text: Callable[[], str] = str
        self.left: float | None = None
        self._line = _shown.get()

    def __enter__(self) -> "Stage":
        if self._line is not None:
            self._line.begin(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._line is not None:
            self._line.end(self)

    def update(
        self,
        share: float,
        text: Callable[[], str] | None = None,
        *,
        width: float = 0.0,
        left: float | None = None,
    ) -> None:
        """Say where this stands.

        Args:
            share: done, in [0, 1].
            text: says what is going on; only asked when it will be shown.
            width: share that the piece under way adds when it is done; stages within it add to it.
            left: seconds left, where the caller knows better than the pace so far; NaN: unknown.
        """
        if self._line is None:
            return
        self.share, self.width, self.left = share, width, left
        self.text = text or self.text
        self._line.show()


class _Line:
    """All stages under way, the outermost first, and what shows them."""

    def __init__(self, picture: "_Picture") -> None:
        self._stages: list[Stage] = []
        self._picture = picture

    def begin(self, stage: Stage) -> None:
        if not self._stages:
            self._pace, self._done = Pace(), 0.0
            self._next = time.perf_counter() + self._picture.patience
        self._stages.append(stage)

    def end(self, stage: Stage) -> None:
        if stage in self._stages:  # with those inside it that an exception has left
            del self._stages[self._stages.index(stage) :]
        if not self._stages:
            self._picture.close()

    def show(self) -> None:
        """Take up what a stage has said, and show it if the last time is long enough ago."""
        if not self._stages:
            return
        share, width = 0.0, 1.0
        for stage in self._stages:
            share, width = share + width * stage.share, width * stage.width
        if share > self._done:  # not where a loop begins, nor where more is expected than before
            self._pace.add(share - self._done, tuple(stage.label for stage in self._stages))
            self._done = min(share, 1.0)
        now = time.perf_counter()
        if now < self._next:
            return
        self._next = now + self._picture.every
        left = self._stages[0].left
        if left is None:
            left = (1.0 - self._done) / self._pace.speed
        words = ": ".join(said for stage in self._stages if (said := stage.text()))
        if math.isfinite(left):  # first: what does not fit into a line is cut at its end
            words = f"{span(left)} left  {words}"
        self._picture.draw(self._stages[0].label, self._done, words)


class _Picture(Protocol):
    """Where a line is shown: `patience` seconds after the beginning, then `every` so often."""

    patience: float
    every: float

    def draw(self, label: str, share: float, words: str) -> None: ...

    def close(self) -> None: ...


def _picture(log: Callable[[str], None] | None) -> _Picture | None:
    if sys.stderr.isatty():
        return _Bar()
    if _in_notebook():
        return _Cell()
    return None if log is None else _Log(log)


class _Log:
    """A line a minute."""

    patience = every = 60.0

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def draw(self, label: str, share: float, words: str) -> None:
        self._log(f"{label}: {100 * share:.0f} %  {words}")

    def close(self) -> None:
        """Nothing stays."""


class _Bar:
    """A bar on a terminal, gone when it is done."""

    patience, every = _PATIENCE, _REDRAWN

    def __init__(self) -> None:
        self._bar: Any = None

    def draw(self, label: str, share: float, words: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn
            from rich.table import Column

            self._bar = Progress(
                TextColumn("{task.fields[label]}", markup=False),
                BarColumn(bar_width=20),
                TextColumn(
                    "{task.percentage:>3.0f} %  {task.description}",
                    markup=False,
                    table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
                ),
                console=Console(stderr=True),
                expand=True,  # what is cut is the end of the words
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # else it is data, and goes where it goes
                auto_refresh=False,  # no thread beside the computation
            )
            self._task = self._bar.add_task("", total=1.0, label=label)
            self._bar.start()
        self._bar.update(self._task, completed=share, description=words, refresh=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Cell:
    """A line under a notebook's cell, empty when it is done."""

    patience, every = _PATIENCE, _REDRAWN

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, label: str, share: float, words: str) -> None:
        filled = round(20 * share)
        self._put(f"{label} {'━' * filled}{'╌' * (20 - filled)} {100 * share:3.0f} %  {words}")

    def close(self) -> None:
        if self._handle is not None:
            self._put("")
            self._handle = None

    def _put(self, text: str) -> None:
        shown = {"text/plain": text}
        if self._handle is None:
            display = importlib.import_module("IPython.display").display
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this; IPython in a terminal is a terminal."""
    ask = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return hasattr(ask(), "kernel")


def span(seconds: float) -> str:
    """Return seconds as "1 h 05 min", "3 min 20 s" or "12 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


_shown: ContextVar[_Line | None] = ContextVar("shown", default=None)
