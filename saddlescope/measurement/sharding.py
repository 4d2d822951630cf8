"""A spectrum job on several ranks, which share its rows or the samples of each row.

- *classes*: each rank measures some of the rows, as one process would, so the table is the same
  to the byte. Every finished row goes into the rank's own part file beside the table before the
  rank goes on, and onto the board, from where rank 0 puts it into the table. The next job of any
  number of ranks takes what is left in part files into the table first.
- *samples*: all ranks measure each row together, each holding a part of its samples
  (`saddlescope.parallel`). Rank 0 keeps the table.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from saddlescope.curvature import SharedSamples, Subset, count_samples
from saddlescope.curvature.objective import criterion_told
from saddlescope.errors import Interrupted, UsageError
from saddlescope.measurement.job import (
    Keeper,
    Rows,
    SpectrumJob,
    part_file,
    part_files,
    row_key,
    write_part,
)
from saddlescope.parallel import Board, RankDied, RankFailed, Ranks

OnRow = Callable[[dict[str, Any], bool], None]


def assign(counts: Sequence[int], ranks: int) -> list[int]:
    """Assign each row to a rank: the longest first, to the rank with the least so far.

    Args:
        counts: samples of each row.
        ranks: how many there are.

    Returns:
        A rank for each row. All rows take part, finished or not, so that every rank of every
        start comes to the same answer.
    """
    load, owner = [0] * ranks, [0] * len(counts)
    for row in sorted(range(len(counts)), key=lambda row: (-counts[row], row)):
        owner[row] = min(range(ranks), key=lambda rank: (load[rank], rank))
        load[owner[row]] += counts[row]
    return owner


def run_sharded(
    job: SpectrumJob,
    board: Board,
    *,
    ranks: Ranks | None = None,
    on_row: OnRow | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """Run a job on all ranks of a board, each of which calls this; see `SpectrumJob.run`.

    Args:
        job: the same on all ranks.
        board: of this rank.
        ranks: shares the samples of each row; None shares the rows.
        on_row: see `SpectrumJob.run`; on rank 0 it is called for all rows.
        should_stop: see `SpectrumJob.run`; one rank's yes ends the job.

    Returns:
        All rows asked for, in order, on every rank.

    Raises:
        Interrupted, DataError: see `SpectrumJob.run`.
        UsageError: this rank holds another network, criterion or data set than rank 0.
        RankFailed, RankDied: another rank has ended; what was finished is on disk.
    """

    def stop() -> bool:
        asked = should_stop()
        board.look(now=asked)  # a launcher also stops the others when one of them dies
        return asked

    held = _held(job)
    # Read by one rank only, before any other writes: afterwards no part file is left.
    if board.rank == 0:
        finished = job.finished()
        board.post("target", held)  # before "finished", which the others wait for
        board.post("finished", list(finished.values()))
    else:
        finished = _keyed(board.wait_for("finished", should_stop=stop))
        _refuse_apart(held, board.read("target"))
    if ranks is not None:
        shared = replace(job.target, samples=SharedSamples(job.target.samples, ranks))
        keeper = Keeper(finished, job.save if board.rank == 0 else _nothing, job.programs())
        return replace(job, target=shared).run(
            on_row=on_row, should_stop=lambda: ranks.any(stop()), keeper=keeper
        )
    owners = assign(
        [count_samples(job.target.samples, subset) for subset in job.subsets], board.size
    )
    mine = tuple(s for s, owner in zip(job.subsets, owners, strict=True) if owner == board.rank)
    if board.rank == 0:
        return _lead(job, board, mine, finished, on_row or _nothing, stop)
    keeper = Keeper(finished, _Part(job, board, finished).keep, job.programs())
    replace(job, subsets=mine).run(should_stop=stop, keeper=keeper)
    rows: list[dict[str, Any]] = board.wait_for("table", should_stop=stop)
    return rows


def _held(job: SpectrumJob) -> dict[str, str]:
    """What must be the same on all ranks, in words."""
    told = {key: str(value) for key, value in job.target.identity.items()}
    return told | {"loss": f"{zlib.crc32(repr(criterion_told(job.target.criterion)).encode()):08x}"}


def _refuse_apart(mine: dict[str, str], first: dict[str, str]) -> None:
    """Refuse to measure another target than rank 0 does: its rows would be waited for for ever."""
    apart = [key for key in mine if mine[key] != first[key]]
    if apart:
        words = ", ".join(f"{key} {first[key]} on rank 0 and {mine[key]} here" for key in apart)
        raise UsageError(
            f"ranks hold other networks, criteria or data: {words}. Load one checkpoint and one "
            "data set on every rank (weights without a checkpoint are drawn at random: set a seed)"
        )


def _lead(
    job: SpectrumJob,
    board: Board,
    mine: tuple[Subset, ...],
    finished: Rows,
    on_row: OnRow,
    stop: Callable[[], bool],
) -> list[dict[str, Any]]:
    """Rank 0: measure its own rows, and put everybody's into the table."""
    table = dict(finished)
    arrivals = _Arrivals(board, on_row)

    def keep(found: Rows) -> None:
        table.update(found)
        table.update(arrivals.collect())
        job.save(table)

    share, keeper = replace(job, subsets=mine), Keeper(finished, keep, job.programs())
    for key in set(finished).intersection(job.row_keys()).difference(share.row_keys()):
        on_row(finished[key], True)
    try:
        share.run(on_row=on_row, should_stop=stop, keeper=keeper)
        while not table.keys() >= set(job.row_keys()):
            if found := arrivals.collect():
                table.update(found)
                job.save(table)
            else:
                board.pause(stop)
    except (Interrupted, RankFailed, RankDied):
        keep({})
        raise
    for part in part_files(job.path) if job.path else ():
        part.unlink()
    rows = [table[key] for key in job.row_keys()]
    board.post("table", rows)
    return rows


class _Part:
    """The new rows of a rank: in its part file first, then on the board."""

    def __init__(self, job: SpectrumJob, board: Board, known: Rows) -> None:
        self._path = part_file(job.path, board.rank) if job.path else None
        self._board, self._known, self._posted = board, known, 0

    def keep(self, found: Rows) -> None:
        new = [row for key, row in found.items() if key not in self._known]
        if self._path:
            write_part(self._path, new)
        for row in new[self._posted :]:
            self._board.post(f"row/{self._board.rank}/{self._posted}", row)
            self._posted += 1


class _Arrivals:
    """Rows that the other ranks have posted."""

    def __init__(self, board: Board, on_row: OnRow) -> None:
        self._board, self._on_row = board, on_row
        self._taken = dict.fromkeys(range(1, board.size), 0)

    def collect(self) -> Rows:
        """Those that are new."""
        rows = []
        for rank in self._taken:
            while (row := self._board.read(f"row/{rank}/{self._taken[rank]}")) is not None:
                self._taken[rank] += 1
                self._on_row(row, False)
                rows.append(row)
        return _keyed(rows)


def _keyed(rows: Sequence[dict[str, Any]]) -> Rows:
    return {row_key(row): row for row in rows}


def _nothing(*_: object) -> None:
    """What a rank that keeps no table does with a new row, and who is not told of it."""
