"""Two never hold one lock, and nothing of it stays behind."""

import multiprocessing
import os
import time

import pytest

from saddlescope.errors import UsageError
from saddlescope.runs import one_writer
from saddlescope.runs.lock import lock_file


def hold_often(guarded, times, failures):
    inside = guarded.with_name("inside")
    for _ in range(times):
        with one_writer(guarded, patience=60.0):
            try:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                failures.value += 1
            else:
                inside.unlink()


def test_two_never_hold_it_under_stress(tmp_path, monkeypatch):
    monkeypatch.setattr("saddlescope.runs.lock._LOOK_SECONDS", 0.0)
    context = multiprocessing.get_context("fork")
    failures = context.Value("i", 0)
    workers = [
        context.Process(target=hold_often, args=(tmp_path / "run", 300, failures)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert failures.value == 0
    assert not list(tmp_path.iterdir())


def test_whoever_opened_it_before_it_was_removed_begins_anew(tmp_path):
    import fcntl

    path = lock_file(tmp_path / "run")
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    path.unlink()  # as the holder does before it lets go
    again = one_writer(tmp_path / "run", patience=0.0)
    with one_writer(tmp_path / "run"), pytest.raises(UsageError, match="another process"), again:
        pass
    os.close(descriptor)


def test_a_lock_waits_as_long_as_it_is_told(tmp_path):
    began = time.monotonic()
    again = one_writer(tmp_path / "run", patience=0.2)
    with one_writer(tmp_path / "run"), pytest.raises(UsageError), again:
        pass
    assert time.monotonic() - began >= 0.2


def test_a_file_of_the_lock_s_name_that_leads_elsewhere_is_not_followed(tmp_path):
    lock_file(tmp_path / "run").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"), one_writer(tmp_path / "run"):
        pass
    assert not (tmp_path / "precious").exists()
