"""The files of a run folder that are ours: known by name, and removed by name only.

A folder is a run folder when its run.json is one of ours. Whoever has put anything else there finds
it again: such a folder is not emptied.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from saddlescope.errors import UsageError
from saddlescope.runs.reading import read_bytes
from saddlescope.runs.schema import VIEW_COLUMNS

_TABLE = r"spectrum/(?:last|best|epoch-[0-9]{3,})-(?:train|test)"
_OURS = re.compile(
    "|".join(
        (
            r"recipe\.toml",
            r"run\.json",
            r"(?:metrics|monitor|norms|losses)\.jsonl",
            r"checkpoints/(?:last|best|epoch-[0-9]{3,})\.pt",
            _TABLE + r"\.(?:csv|json)",
            _TABLE + r"\.csv\.(?:saddlescope-)?part-[0-9]+",
            _TABLE + r"\.csv\.saddlescope-products-[0-9a-f]{12}",
            _TABLE + rf"\.views/(?:{'|'.join(VIEW_COLUMNS)})\.(?:csv|json)",
            _TABLE + r"\.views/eigenvectors/(?:group|class)-[^/]+-[0-9a-f]{8}\.safetensors",
            r"tensorboard/events\.out\.tfevents\.[^/]+",
        )
    )
)
_OUR_FOLDERS = re.compile(rf"checkpoints|spectrum|tensorboard|{_TABLE}\.views(?:/eigenvectors)?")
_BESIDE = re.compile(r"\.(?P<name>.+)\.(?:[a-z0-9_]{8}\.tmp|saddlescope-lock)")
"""What a kill may leave of an atomic write, and the lock of a table."""

_MARK = "run.json"

_MARKED = 20_000
"""Bytes at either end of a page or picture in which its maker stands."""

_MAKERS = {
    b"\x89PNG": b"Software\0saddlescope",
    b"%PDF": b"/Creator (saddlescope)",
    b"<?xml": b"<dc:title>saddlescope</dc:title>",
    b"<!doctype html>": b'<meta name="generator" content="saddlescope',
}
"""How a format begins, and what names its maker; the bare word may stand in anybody's file."""


def is_ours(name: str) -> bool:
    """Tell whether a file is called, relative to its run folder, as one that we write."""
    folder, slash, last = name.rpartition("/")
    if (beside := _BESIDE.fullmatch(last)) is not None:
        name = f"{folder}{slash}{beside['name']}"
    return _OURS.fullmatch(name) is not None


def is_leftover(name: str) -> bool:
    """Tell whether a file is what a kill has left of one of our atomic writes."""
    return name.endswith(".tmp") and is_ours(name)


def foreign_names(folder: Path) -> list[str]:
    """List what in a folder is not ours, folders with a slash; links and devices are not ours."""
    return [name for name, ours in _walk(folder, "") if not ours]


def empty_run_folder(folder: Path) -> None:
    """Remove what we have written, file by file; the folder itself stays.

    Raises:
        UsageError: it holds something else; nothing has been removed.
    """
    if foreign := foreign_names(folder):
        raise UsageError(
            f"{folder}: holds {shown(foreign)}, not written by saddlescope; nothing was deleted. "
            "Move that away, or choose another folder"
        )
    inside = [name for name, _ in _walk(folder, "")]
    for name in inside:
        if not name.endswith("/") and name != _MARK:
            (folder / name).unlink(missing_ok=True)
    for name in sorted((name for name in inside if name.endswith("/")), key=len, reverse=True):
        (folder / name).rmdir()
    # The mark of a run goes last: cut in the middle, the folder can still be emptied.
    (folder / _MARK).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what kills have left of atomic writes in a run folder and of its checkpoints."""
    for name, ours in _walk(folder, ""):
        if ours and is_leftover(name) and not name.startswith("spectrum/"):
            (folder / name).unlink(missing_ok=True)


def refuse_foreign_output(path: Path, *, force: bool, columns: Sequence[str] = ()) -> None:
    """Refuse to replace a report, a figure or a table that we have not written.

    Args:
        path: of the file to write.
        force: replace it all the same.
        columns: of a table: a CSV that begins with them is ours.

    Raises:
        UsageError: there is another file, or a folder; it says where.
    """
    if force or not os.path.lexists(path):
        return
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; choose another name")
    if path.is_file() and not _is_made_here(path, columns):
        raise UsageError(
            f"{path}: is there and was not written by saddlescope; choose another name, or pass "
            "--force to replace it"
        )


def _is_made_here(path: Path, columns: Sequence[str]) -> bool:
    """Whether a file is empty, is such a table, or says who made it.

    Our pages and pictures say so at their beginning or, of a PDF, at their end.
    """
    content = read_bytes(path)
    if columns:
        return not content or content.startswith(",".join(columns).encode())
    ends = content[:_MARKED] + content[-_MARKED:]
    marks = [mark for begins, mark in _MAKERS.items() if content.startswith(begins)]
    return not content or any(mark in ends for mark in marks)


def shown(names: list[str]) -> str:
    """Return the first few names, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _walk(folder: Path, below: str) -> Iterator[tuple[str, bool]]:
    """Names relative to the folder, and whether they are ours; a folder of ours before its content.

    What is in a folder that is not ours is not looked at.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = f"{below}{entry.name}"
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            ours = _OUR_FOLDERS.fullmatch(name) is not None
            yield f"{name}/", ours
            if ours:
                yield from _walk(folder / entry.name, f"{name}/")
        else:
            yield name, stat.S_ISREG(mode) and is_ours(name)
