"""Running torch's recorder where its failures stay: in a thread of its own.

A recording that fails inside torch leaves the dispatch state of its thread changed: from then on
autograd builds no graphs there, and the caller's next training step fails. That state belongs to
the thread, and ends with it.
"""

import functools
import importlib
import logging
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from saddlescope.curvature.objective import exact_arithmetic
from saddlescope.curvature.products.graphs import RecordingError

_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))


def record(function: Callable[..., Any], *arguments: Any) -> GraphModule:
    """Record a function of tensors as a graph, on fake tensors of the arguments' shapes.

    Raises:
        RecordingError: it does something that cannot be recorded; says what and where.
    """
    _hold_device_guard()
    _load_forward_mode()
    found: list[GraphModule] = []
    failed: list[Exception] = []
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def work() -> None:
        if device is not None:
            torch.cuda.set_device(device)
        try:
            with exact_arithmetic():
                # Real tensors among fake ones: what the model keeps beside its buffers.
                traced = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
                found.append(traced(*arguments))
        except Exception as error:
            # Recording runs anybody's forward pass on fake tensors: anything may be raised.
            failed.append(error)

    thread = threading.Thread(target=work, name="saddlescope-recording", daemon=True)
    loud = logging.getLogger("torch._subclasses.fake_tensor")
    before, loud.disabled = loud.disabled, True  # it prints a traceback of what is handled here
    try:
        thread.start()
        thread.join()
    finally:
        loud.disabled = before
    if failed:
        error = failed[0]
        raise RecordingError(f"recording failed ({first_line(error)}{_place(error)})") from error
    return found[0]


@functools.cache
def _hold_device_guard() -> None:
    """Keep what torch 2.11, built for CUDA on a machine without it, has a first recording make.

    It belongs to that recording's thread, but all others go on using it: once the thread has ended,
    the next recording would crash the interpreter. So a thread that never ends makes it first.
    """
    make = getattr(torch._C, "_ensureCUDADeviceGuardSet", None)
    if make is None or torch.version.cuda is None or torch.cuda.is_available():
        return
    made = threading.Event()

    def hold() -> None:
        try:
            make()
        finally:
            made.set()
        threading.Event().wait()

    threading.Thread(target=hold, name="saddlescope-device-guard", daemon=True).start()
    made.wait()


@functools.cache
def _load_forward_mode() -> None:
    """Have torch load its rules of forward mode, without its warning of its own `torch.jit`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("torch._decomp.decompositions_for_jvp")


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _place(error: Exception) -> str:
    """Where in somebody's own code it happened."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith((*_OURS, "<"))]
    if not theirs:
        return ""
    frame = theirs[-1]
    return f", in {frame.name} at {Path(frame.filename).name}:{frame.lineno}: {frame.line}"
