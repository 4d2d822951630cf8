"""Count the tests that reach this instrument: a test that never does is no evidence for it.

A shim puts functions of ours in the place of its tool's by `replace`. A test counts as applicable
when at least one of them was called in it, whatever became of it then.
"""

import functools
import sys
from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any

import pytest

_current: set[str] = set()
_tests: dict[str, tuple[bool, str]] = {}  # by node: whether ours was called, and the outcome


def replace(names: dict[str, Callable[..., Any]], package: str) -> None:
    """Put ours in the place of theirs in every module of a package that has been imported."""
    for module in [m for name, m in sys.modules.items() if name.split(".")[0] == package]:
        for name, ours in names.items():
            if isinstance(module, ModuleType) and name in vars(module):
                setattr(module, name, ours)


def ours(function: Callable[..., Any]) -> Callable[..., Any]:
    """Note each call of a function of a shim."""

    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        mark()
        return function(*args, **kwargs)

    return noted


def mark() -> None:
    """Note that the running test has reached this instrument."""
    _current.add("reached")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, Any, Any]:
    """Forget what the test before reached."""
    _current.clear()
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what became of a test; a failure in its set-up counts as one."""
    if report.when == "call" or report.outcome != "passed":
        _tests[report.nodeid] = bool(_current), report.outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many of the applicable tests passed."""
    applicable = [outcome for reached, outcome in _tests.values() if reached]
    passed = applicable.count("passed")
    others = len(_tests) - len(applicable)
    terminalreporter.write_line(
        f"saddlescope: {passed} of {len(applicable)} applicable tests pass; {others} others never "
        "reach it"
    )
    for node, (reached, outcome) in _tests.items():
        if reached and outcome != "passed":
            terminalreporter.write_line(f"  {outcome}: {node}")
