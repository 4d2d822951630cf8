"""Run another tool's tests on this instrument.

    python benchmarks/peer_suites/run.py hessian-eigenthings CHECKOUT [pytest arguments]
    python benchmarks/peer_suites/run.py curvlinops CHECKOUT [pytest arguments]
    python benchmarks/peer_suites/run.py matfree CHECKOUT [pytest arguments]

CHECKOUT holds the tool's sources with its tests (`pip download --no-binary :all: --no-deps NAME`,
unpacked). Nothing is fetched or written there. The tool's requirements must be installed: those of
the extra `bench`; matfree needs jax and pytest-cases.
"""

import os
import sys
from pathlib import Path

import pytest

TESTS = {"hessian-eigenthings": "tests", "curvlinops": "test", "matfree": "tests"}


def main() -> int:
    """Run the tests; exit as pytest does."""
    if len(sys.argv) < 3 or sys.argv[1] not in TESTS or not Path(sys.argv[2]).is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    tool, checkout, *rest = sys.argv[1:]
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), checkout]
    os.chdir(checkout)
    shim = f"benchmarks.peer_suites.{tool.replace('-', '_')}_shim"
    wanted = [TESTS[tool]] if not any(Path(a.split("::")[0]).exists() for a in rest) else []
    options = ["-q", "-p", "no:cacheprovider", "-p", "benchmarks.peer_suites.reach", "-p", shim]
    return int(pytest.main([*options, *wanted, *rest]))


if __name__ == "__main__":
    sys.exit(main())
