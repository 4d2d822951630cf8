"""What bfloat16, channels last and compilation give in training, and what steps cost with them.

    python -m benchmarks.fast_settings --data-root FOLDER -o fast-settings.json

Trains the study's network (train/study.toml) for a few epochs a run, each in a process of its own
and on one thread, settings in turn. The speed is that of the epochs after the first, in which the
network is compiled; ratios are within this one call. Accuracy after so few epochs is that of an
untrained network: it is there to show that no setting is off, by its spread over the seeds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import CLONE
from saddlescope.runs import RunFolder, provenance, read_rows, write_json

RECIPE = CLONE / "train" / "study.toml"
SETTINGS = {
    "float32": ("float32", False, False),
    "bf16": ("bf16", False, False),
    "bf16 + channels last": ("bf16", True, False),
    "compiled": ("float32", False, True),
    "bf16 + channels last + compiled": ("bf16", True, True),
}
"""Name to precision, channels last, compile."""


def run(folder, data_root, method, setting, *, seed, epochs, images):
    """Train for a few epochs and return speed, loss and accuracy."""
    precision, channels_last, compiled = SETTINGS[setting]
    words = {
        "name": "fast", "method.name": method, "training.seed": seed, "training.epochs": epochs,
        "training.precision": precision, "training.channels_last": json.dumps(channels_last),
        "training.compile": json.dumps(compiled), "training.norms_every": 0,
        "training.losses_every": 0, "training.checkpoint_every": 0,
        "training.evaluate_every": epochs, "data.imbalance_factor": images,
    }  # fmt: skip
    recipe, output = folder / "recipe.toml", folder / "run"
    # Without the sweep, whose keys could not be overridden.
    recipe.write_text(RECIPE.read_text(encoding="utf-8").split("[[sweep]]")[0], encoding="utf-8")
    command = [sys.executable, "-P", "-m", "saddlescope", "train", str(recipe), "--threads", "1"]
    for key, value in words.items():
        command += ["--set", f"{key}={value}"]
    command += ["-o", str(output), "--data-root", str(data_root), "--device", "cpu"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    rows = read_rows(RunFolder(output).metrics_file)
    return {
        "images_per_s": statistics.median(row["images_per_s"] for row in rows[1:]),
        "first_epoch_s": rows[0]["seconds"],
        "train_loss": rows[-1]["train_loss"],
        "acc_avg": rows[-1]["acc_avg"],
    }


def main():
    """Train, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--imbalance-factor", type=float, default=1000)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    fast = next(reversed(SETTINGS))
    jobs = [("sgd", setting, seed) for seed in options.seeds for setting in SETTINGS]
    methods = ("sam", "imbsam", "sam-ext")
    jobs += [(method, setting, 0) for method in methods for setting in ("float32", fast)]
    found = []
    for method, setting, seed in jobs:
        with tempfile.TemporaryDirectory() as folder:
            numbers = run(
                Path(folder), options.data_root, method, setting, seed=seed,
                epochs=options.epochs, images=options.imbalance_factor,
            )  # fmt: skip
        found.append({"method": method, "setting": setting, "seed": seed, **numbers})
        print(found[-1], flush=True)
        about = {k: v for k, v in provenance().items() if k != "command"}
        write_json(options.output, {"runs": found, "ratios": ratios(found), "about": about})


def ratios(found):
    """Speed of SGD against float32, and the cost of a step in SGD steps, by setting."""
    speed = {}
    for row in found:
        speed.setdefault((row["method"], row["setting"]), []).append(row["images_per_s"])
    speed = {key: statistics.median(values) for key, values in speed.items()}
    plain = speed.get(("sgd", "float32"))
    return {
        "sgd_against_float32": {
            s: round(v / plain, 2) for (m, s), v in speed.items() if m == "sgd"
        },
        "steps_in_sgd_steps": {
            f"{m}, {s}": round(speed["sgd", s] / v, 2)
            for (m, s), v in speed.items()
            if m != "sgd" and ("sgd", s) in speed
        },
    }


if __name__ == "__main__":
    main()
