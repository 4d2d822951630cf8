"""A job's rows and records on disk: by key, in one order whether it was cut or not."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from saddlescope.errors import UsageError
from saddlescope.runs import (
    SPECTRUM_KEY,
    one_writer,
    read_view,
    view_columns,
    view_file,
    views_folder,
    write_view,
)

Key = tuple[Any, ...]
Rows = dict[Key, dict[str, Any]]
"""Finished rows by what decides their numbers."""

LOCK_PATIENCE = 60.0
"""Seconds to wait for another process that is writing the same table; it takes milliseconds."""

_EIGENVECTORS = re.compile(r"eigenvectors/[^/]+\.safetensors")
"""Files that a record may name."""

_EMPTY: Mapping[type, Any] = {str: "", float: float("nan")}
"""What stands for a value that is not there; of other kinds None."""


def row_key(row: Mapping[str, Any]) -> Key:
    """Return what a row, or a record of a view, is found by."""
    return tuple(row[column] for column in SPECTRUM_KEY)


def digest_of(target: str, members: str) -> str:
    """Return what tells a row's weights and data and, of a group by its samples, these."""
    return f"{target}+{members}" if members else target


def is_outdated(
    row: Mapping[str, Any], identity: Mapping[str, Any], members: Mapping[str, str], path: Path
) -> bool:
    """Tell whether a row speaks of weights or of a group that are no longer there.

    Args:
        row: on disk.
        identity: of the target; another digest in the same file are other weights.
        members: of each group that is asked for, see `Subset`.
        path: of the file, for the error.

    Raises:
        UsageError: it speaks of the same weights and of other data under the same name.
    """
    if any(row[column] != identity[column] for column in ("run", "checkpoint", "split")):
        return False
    digest, _, own = row["digest"].partition("+")
    (weights, _, data), (now, _, given) = digest.partition("-"), identity["digest"].partition("-")
    if weights == now and data != given:
        raise UsageError(
            f"{path}: holds rows of the same network on other data, under the split "
            f"{identity['split']!r}: name another file with -o, or another split with --split"
        )
    other = row["kind"] == "group" and own != members.get(row["name"], own)
    return bool(weights != now or other)


def in_order(finished: Mapping[Key, Any], job: Iterable[Key]) -> list[Any]:
    """Put what a job has finished in its own order, after what it does not ask for."""
    mine = [key for key in job if key in finished]
    others = [row for key, row in finished.items() if key not in set(mine)]
    return [*others, *(finished[key] for key in mine)]


class ViewRecords:
    """The records of one view, on disk beside its table after each `put`.

    Args:
        table: of the spectrum.
        view: which.
        identity: of the target; records of other weights in the same checkpoint are dropped.
        members: of each group, see `is_outdated`.

    Raises:
        DataError: the file is not one of this view.
        UsageError: see `is_outdated`.
    """

    def __init__(
        self, table: Path, view: str, identity: Mapping[str, Any], members: Mapping[str, str]
    ) -> None:
        self.view, self.path = view, view_file(table, view)
        self._folder = views_folder(table)
        self._outdated: set[Key] = set()
        self._stale: list[str] = []
        # Who was killed while it wrote has left a lock; the next to hold it takes it away.
        there = self.path.is_file()
        with one_writer(self.path, patience=LOCK_PATIENCE) if there else nullcontext():
            self._records = self._read()
        for key, records in list(self._records.items()):
            if is_outdated(records[0], identity, members, self.path):
                self._outdated.add(key)
                self._stale += [record["file"] for record in records if "file" in record]
                del self._records[key]

    def _read(self) -> dict[Key, list[dict[str, Any]]]:
        """What is on disk."""
        found: dict[Key, list[dict[str, Any]]] = {}
        for record in read_view(self.path) if self.path.is_file() else []:
            found.setdefault(row_key(record), []).append(record)
        return found

    def has(self, words: Mapping[str, Any]) -> bool:
        """Tell whether the view of this row is there, the files that it names included."""
        records = self._records.get(row_key(words), [])
        return bool(records) and all(
            (self._folder / record["file"]).is_file() for record in records if "file" in record
        )

    def put(
        self,
        words: Mapping[str, Any],
        records: Iterable[Mapping[str, Any]],
        *,
        order: Sequence[Mapping[str, Any]],
    ) -> None:
        """Add the view of a row and write the file.

        Args:
            words: the row's own columns, `settings` being the view's.
            records: what was computed; a column that a record lacks is left empty.
            order: the words of all rows of the job.
        """
        columns = view_columns(self.view)
        self._records[row_key(words)] = [
            {column: _EMPTY.get(kind) for column, kind in columns.items()}
            | {column: value for column, value in words.items() if column in columns}
            | dict(record)
            for record in records
        ]
        with one_writer(self.path, patience=LOCK_PATIENCE):
            there = {k: found for k, found in self._read().items() if k not in self._outdated}
            self._records = there | self._records  # another process may have added to the file
            ordered = in_order(self._records, map(row_key, order))
            write_view(self.path, [record for found in ordered for record in found])
            while self._stale:  # after the index no longer names them
                name = self._stale.pop()
                if _EIGENVECTORS.fullmatch(name):
                    (self._folder / name).unlink(missing_ok=True)
