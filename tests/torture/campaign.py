"""Run the campaign: as many trials as the minutes allow, counted, faults shown."""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.torture.bombs import bomb
from tests.torture.inputs import INPUTS, Bench, attempt
from tests.torture.kills import COMMANDS, killed
from tests.torture.matrices import one_interval
from tests.torture.pages import page, why_not
from tests.torture.room import ROOM

SHARES = {
    "inputs": 0.3,
    "intervals": 0.1,
    "bombs": 0.05,
    "room": 0.07,
    "pages": 0.03,
    "kills": 0.45,
}
"""Of the minutes."""

KNOWN = ("accepted", "refused", "contained", "missed", "SIGKILL", "SIGTERM", "SIGINT")
"""What may come of a trial; a signal's name stands for a kill that left nothing wrong."""


class Tally:
    """What has come of the trials, by kind."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.faults: list[str] = []

    def add(self, kind: str, outcome: str, seed: str) -> None:
        self.counts[kind, outcome if outcome in KNOWN else "fault"] += 1
        if outcome not in KNOWN:
            self.faults.append(f"{kind}, {seed}: {outcome}")
            sys.stdout.write(f"FAULT {self.faults[-1]}\n")
            sys.stdout.flush()

    def of(self, *outcomes: str) -> int:
        return sum(count for (_, what), count in self.counts.items() if what in outcomes)

    def lines(self) -> list[str]:
        kinds = sorted({kind for kind, _ in self.counts})
        rows = []
        for kind in kinds:
            found = {what: n for (of, what), n in self.counts.items() if of == kind}
            rows.append(f"{kind}: " + ", ".join(f"{n} {what}" for what, n in sorted(found.items())))
        rows.append(
            f"{self.of('accepted', 'refused')} inputs, {self.of('refused')} refusals, "
            f"{self.of('SIGKILL', 'SIGTERM', 'SIGINT')} kills, "
            f"{self.of('contained', 'missed')} intervals with {self.of('missed')} misses, "
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


Trial = Callable[[Bench, random.Random], str]


def others(tally: Tally, bench: Bench, seed: int, trials: list[Trial], until: float) -> None:
    """Trials that say themselves what came of them, one after the other."""
    number = 0
    while time.monotonic() < until:
        trial, mark = trials[number % len(trials)], f"{seed}/{number}"
        tally.add(trial.__name__.replace("_", " "), attempt_other(trial, bench, mark), mark)
        number += 1


def kills(tally: Tally, bench: Bench, seed: int, until: float) -> None:
    """Commands of `COMMANDS`, each killed until it has come to its end."""
    names, weights = list(COMMANDS), [weight for _, weight in COMMANDS.values()]
    choose, number = random.Random(f"{seed} kills"), 0
    while time.monotonic() < until:
        name, mark = choose.choices(names, weights)[0], f"{seed}/{number}"
        try:
            outcomes = killed(name, COMMANDS[name][0], bench, random.Random(mark))
        except (Exception, AssertionError) as error:
            outcomes = [f"{type(error).__name__}: {str(error)[:1500]}"]
        for outcome in outcomes:
            tally.add(f"kills of {name}", outcome, mark)
        number += 1


def main() -> None:
    """`python -m tests.torture.campaign --minutes 10 --seed 0`."""
    parser = argparse.ArgumentParser(description="Faults and bad input, counted.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SHARES, help="spend all the minutes on one part")
    options = parser.parse_args()
    tally = Tally()
    pages = [] if (reason := why_not()) else [page]
    if reason:
        sys.stdout.write(f"no page is opened: {reason}\n")
    parts = {"intervals": [one_interval], "bombs": [bomb], "room": ROOM, "pages": pages}
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        bench = Bench.make(Path(folder))
        for part, share in SHARES.items() if options.only is None else ((options.only, 1.0),):
            until = time.monotonic() + 60.0 * share * options.minutes
            if part == "inputs":
                inputs(tally, bench, options.seed, lambda _, end=until: time.monotonic() < end)
            elif part == "kills":
                kills(tally, bench, options.seed, until)
            elif parts[part]:
                others(tally, bench, options.seed, parts[part], until)
    sys.stdout.write("\n".join(tally.lines()) + "\n")
    sys.exit(bool(tally.faults))


def attempt_other(trial: Trial, bench: Bench, mark: str) -> str:
    """Make a trial that says itself what came of it."""
    try:
        return trial(bench, random.Random(mark))
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:1500]}"


if __name__ == "__main__":
    main()
