"""Fill the tables of docs/benchmarks.md from benchmarks/results.

    python -m benchmarks.page

Between `<!-- NAME: FILE… -->` and `<!-- end -->` stands table NAME of `benchmarks.compare.tables`,
drawn from these files; `machine` says what they were measured on.
"""

import re

from benchmarks import CLONE
from benchmarks.compare import read_record
from benchmarks.compare.tables import TABLES
from saddlescope.runs import write_text

PAGE = CLONE / "docs" / "benchmarks.md"
RESULTS = CLONE / "benchmarks" / "results"
BLOCK = re.compile(r"<!-- (\w+): ([\w. -]+?) -->\n.*?<!-- end -->", re.DOTALL)


def machine(processes):
    """What a record's processes ran on, in one line."""
    first, libraries = processes[0], processes[0]["libraries"]
    device = first["device_name"] or first["processor"]
    peers = ", ".join(f"{name} {version}" for name, version in first["peers"].items() if version)
    commits = ", ".join(sorted({process["commit"] or "?" for process in processes}))
    return (
        f"{device}, {first['threads']} thread{'s' if first['threads'] > 1 else ''}, Python "
        f"{first['python']}, torch {libraries['torch']}, SciPy {libraries['scipy']}, {peers}; "
        f"clock: {first['clock']}; commit {commits}."
    )


def filled(text):
    """The page with its tables drawn anew."""

    def draw(match):
        name, files = match[1], match[2].split()
        records = [read_record(RESULTS / file) for file in files]
        if name == "machine":
            body = machine([process for record in records for process in record["processes"]])
        else:
            units = {key: unit for record in records for key, unit in record["units"].items()}
            body = TABLES[name][1]({"units": units})
        return f"<!-- {name}: {match[2]} -->\n\n{body}\n\n<!-- end -->"

    return BLOCK.sub(draw, text)


if __name__ == "__main__":
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
