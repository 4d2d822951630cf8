"""Run the campaign: as many trials as the minutes allow, counted, faults shown."""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.torture.inputs import INPUTS, Bench, attempt
from tests.torture.kills import KILLS
from tests.torture.matrices import one_interval
from tests.torture.room import ROOM

SHARES = {"inputs": 0.55, "kills": 0.25, "room": 0.05, "intervals": 0.15}
"""Of the minutes."""


class Tally:
    """What has come of the trials, by kind."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.faults: list[str] = []

    def add(self, kind: str, outcome: str, seed: str) -> None:
        known = outcome in ("accepted", "refused", "resumed", "contained", "missed")
        self.counts[kind, outcome if known else "fault"] += 1
        if not known:
            self.faults.append(f"{kind}, {seed}: {outcome}")
            sys.stdout.write(f"FAULT {self.faults[-1]}\n")
            sys.stdout.flush()

    def of(self, outcome: str) -> int:
        return sum(count for (_, what), count in self.counts.items() if what == outcome)

    def lines(self) -> list[str]:
        kinds = sorted({kind for kind, _ in self.counts})
        rows = []
        for kind in kinds:
            found = {what: n for (of, what), n in self.counts.items() if of == kind}
            rows.append(f"{kind}: " + ", ".join(f"{n} {what}" for what, n in sorted(found.items())))
        inputs = self.of("accepted") + self.of("refused") + len(self.faults)
        rows.append(
            f"{inputs} inputs, {self.of('refused')} refusals, {self.of('resumed')} kills resumed, "
            f"{self.of('contained')} intervals with {self.of('missed')} misses, "
            f"{len(self.faults)} faults"
        )
        return rows


def inputs(tally: Tally, bench: Bench, seed: int, go_on: Callable[[int], bool]) -> None:
    """Trials of `INPUTS`, each with a generator of its own, so that one can be repeated alone."""
    names, weights = list(INPUTS), [weight for _, weight in INPUTS.values()]
    choose, number = random.Random(f"{seed} order"), 0
    while go_on(number):
        name = choose.choices(names, weights)[0]
        mark = f"{seed}/{number}"
        tally.add(name, attempt(INPUTS[name][0], bench, random.Random(mark)), mark)
        number += 1


def main() -> None:
    """`python -m tests.torture.campaign --minutes 10 --seed 0`."""
    parser = argparse.ArgumentParser(description="Faults and bad input, counted.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tally, seconds = Tally(), 60.0 * options.minutes
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        bench = Bench.make(Path(folder))
        until = time.monotonic() + SHARES["inputs"] * seconds
        inputs(tally, bench, options.seed, lambda _: time.monotonic() < until)
        for part, trials in (("intervals", [one_interval]), ("room", ROOM), ("kills", KILLS)):
            until, number = time.monotonic() + SHARES[part] * seconds, 0
            while time.monotonic() < until:
                trial, mark = trials[number % len(trials)], f"{options.seed}/{number}"
                name = part if part == "intervals" else f"{part}: {trial.__name__}"
                outcome = attempt_other(trial, bench, mark)
                tally.add(name, outcome, mark)
                number += 1
    sys.stdout.write("\n".join(tally.lines()) + "\n")
    sys.exit(bool(tally.faults))


def attempt_other(trial: Callable[[Bench, random.Random], str], bench: Bench, mark: str) -> str:
    """Make a trial that says itself what came of it."""
    try:
        return trial(bench, random.Random(mark))
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:600]}"


if __name__ == "__main__":
    main()
