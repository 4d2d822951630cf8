"""Gather what long runs gave into small tables that can be committed.

    python analysis/collect.py RUNS… -o analysis/results/NAME

Writes NAME-accuracy.csv (the last epoch of every run), NAME-spectra.csv (every row of their
spectrum tables) and NAME.json (versions and hardware). Reads run folders alone.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from saddlescope.reporting import load_runs
from saddlescope.runs import write_json, write_text

SHOTS = ["acc_many", "acc_medium", "acc_few", "acc_avg"]
COLUMNS = [
    "run", "method", "epoch", "checkpoint", "split", "kind", "name", "criterion", "operator",
    "parameters", "weight_decay", "seed", "n", "lambda_max", "lambda_max_lower",
    "lambda_max_upper", "lambda_min", "lambda_min_lower", "lambda_min_upper", "lambda_ratio",
    "lambda_ratio_lower", "lambda_ratio_upper", "confidence", "gradient_norm", "loss", "matvecs",
    "verdict",
]  # fmt: skip


def main() -> None:
    """Gather."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    runs, problems = load_runs(options.runs)
    for problem in problems:
        print(f"left out: {problem.name}: {problem.reason}")
    runs = [run for run in runs if run.info.get("state") == "finished"]
    last = [
        {"run": run.name, "method": run.method, "seed": run.seed}
        | run.metrics.iloc[-1][["epoch", *SHOTS]].to_dict()
        for run in runs
    ]
    spectra = [run.spectra for run in runs if len(run.spectra)]
    stem = options.output
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_text(stem.with_name(f"{stem.name}-accuracy.csv"), pd.DataFrame(last).to_csv(index=False))
    if spectra:
        table = pd.concat(spectra)[COLUMNS]
        write_text(stem.with_name(f"{stem.name}-spectra.csv"), table.to_csv(index=False))
    # Commands hold the paths of one machine.
    left_out = {"command", "started", "seed"}
    notes: dict[str, dict[str, Any]] = {}
    for run in runs:
        about = {k: v for k, v in run.info.get("provenance", {}).items() if k not in left_out}
        notes.setdefault(json.dumps(about), about | {"runs": []})["runs"].append(run.name)
    write_json(stem.with_name(f"{stem.name}.json"), list(notes.values()))
    print(f"{len(runs)} runs, {sum(map(len, spectra))} spectra")


if __name__ == "__main__":
    main()
