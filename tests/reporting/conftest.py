"""Synthetic run folders: what `saddlescope train` and `saddlescope spectrum` leave on disk."""

import math
from pathlib import Path

import numpy as np
import pytest

from saddlescope.runs import RunFolder, append_row, write_json, write_spectrum, write_text

METHODS = ("sgd", "sam", "imbsam", "sam-ext", "sse-sam")
COUNTS = [120, 86, 62, 44, 32, 23, 16, 12, 8, 6]
EPOCHS = 20
SWITCH = 14
STRENGTH = {"sgd": 12.0, "sam": 18.0, "imbsam": 15.0, "sam-ext": 21.0, "sse-sam": 27.0}


def recipe_text(name, method, seed, *, epochs=EPOCHS, extra=""):
    lines = [f'name = "{name}"', "", "[data]", 'name = "digits"']
    lines += ["imbalance_factor = 20", "tail_threshold = 30", "", "[model]", 'name = "tiny"']
    lines += ["", "[method]", f'name = "{method}"', "rho = 0.05", "", "[training]"]
    return "\n".join([*lines, f"epochs = {epochs}", f"seed = {seed}", extra, ""])


def spectrum_row(method, kind, name, n, ratio, *, seed=0, width=0.02, **changes):
    lambda_max = 60.0 + 400.0 / max(n, 1) ** 0.5
    lambda_min = -lambda_max / ratio
    row = {
        "name": name,
        "kind": kind,
        "n": n,
        "lambda_max": lambda_max,
        "lambda_max_lower": lambda_max * (1 - width / 10),
        "lambda_max_upper": lambda_max * (1 + width),
        "lambda_max_residual": lambda_max * 1e-3,
        "lambda_min": lambda_min,
        "lambda_min_lower": lambda_min * (1 + width),
        "lambda_min_upper": lambda_min * (1 - width / 10),
        "lambda_min_residual": abs(lambda_min) * 1e-3,
        "lambda_ratio": ratio,
        "lambda_ratio_lower": ratio * (1 - 1.5 * width),
        "lambda_ratio_upper": ratio * (1 + 1.5 * width),
        "confidence": 0.999,
        "gradient_norm": 0.02 + 3.0 / n,
        "loss": 0.1,
        "matvecs": 24,
        "gradient_cost": 48.0,
        "noise": 1e-6,
        "stop_rule": "residual",
        "converged": True,
        "verdict": "negative-curvature",
        "run": "",
        "method": method,
        "split": "train",
        "criterion": "ce",
        "operator": "hessian",
        "parameters": "*",
        "weight_decay": 0.0,
        "epoch": EPOCHS - 1,
        "checkpoint": "last",
        "seed": seed,
        "dtype": "float32",
        "device": "cpu",
        "digest": f"{method}-digest",
        "settings": "default",
    }
    return row | changes


def spectrum_rows(method, rng, *, seed=0, counts=COUNTS):
    strength = STRENGTH.get(method, 14.0)
    sizes = {"all": sum(counts), "head": sum(counts[:5]), "tail": sum(counts[5:])}
    rows = [spectrum_row(method, "group", g, n, strength, seed=seed) for g, n in sizes.items()]
    for label, n in enumerate(counts):
        tail = 1.4 if method == "imbsam" and label > 5 else 1.0
        ratio = (
            strength
            * tail
            * (1 - 0.5 * label / len(counts))
            * math.exp(0.1 * rng.standard_normal())
        )
        rows.append(spectrum_row(method, "class", str(label), n, ratio, seed=seed))
    if method == "sam" and len(counts) == 10:
        unresolved = {"lambda_ratio": math.nan, "lambda_ratio_lower": 40.0}
        unresolved |= {"lambda_ratio_upper": math.inf, "verdict": "unresolved"}
        rows[-1] |= unresolved | {"lambda_min": -0.2, "lambda_min_upper": 0.4}
        rows[6] |= {"verdict": "not-converged", "converged": False, "lambda_ratio_upper": 60.0}
    return rows


def metric_rows(method, rng, *, epochs=EPOCHS, switch=None):
    final = {"sgd": 0.80, "sam": 0.84, "imbsam": 0.83, "sam-ext": 0.85, "sse-sam": 0.86}
    top = final.get(method, 0.8)
    for epoch in range(epochs):
        progress = 1 - math.exp(-5 * (epoch + 1) / epochs)
        noise = 0.01 * rng.standard_normal(4)
        late = 0.05 if switch is not None and epoch >= switch else 0.0
        tail = 0.1 if method == "imbsam" else 0.0
        accuracy = progress * np.array([top + 0.1, top, top - 0.25 + tail, top - 0.05])
        accuracy = np.clip(accuracy + noise + [0, late, late, late], 0, 1)
        yield {
            "epoch": epoch,
            "stage": 2 if late else 1,
            "lr": 0.1 * (1 - epoch / epochs),
            "train_loss": 2.3 * math.exp(-4 * epoch / epochs),
            "loss_head": 2.0 * math.exp(-4.5 * epoch / epochs),
            "loss_tail": 3.0 * math.exp(-2.5 * epoch / epochs),
            "acc_many": accuracy[0],
            "acc_medium": accuracy[1],
            "acc_few": accuracy[2],
            "acc_avg": accuracy[3],
            "acc_per_class": [float(accuracy[3])] * 10,
            "acc_many_flip": 0.99 * accuracy[0],
            "acc_medium_flip": 0.99 * accuracy[1],
            "acc_few_flip": 0.99 * accuracy[2],
            "acc_avg_flip": 0.99 * accuracy[3],
            "seconds": 0.1,
            "images_per_s": 4000.0,
        }


def write_run(root, method, *, seed=0, name=None, spectrum=True, rows=None, info=None, extra="",
              counts=COUNTS, class_names=None, epochs=EPOCHS):  # fmt: skip
    """Write one run folder and return its path."""
    rng = np.random.default_rng([seed, *method.encode()])
    folder = RunFolder(Path(root) / (name or f"{method}-seed{seed}"))
    text = recipe_text(folder.path.name, method, seed, epochs=epochs, extra=extra)
    write_text(folder.recipe_file, text)
    switch = round(0.7 * epochs) if method == "sse-sam" else None
    numbers = list(range(len(counts)))
    middle = len(counts) // 2
    content = {
        "provenance": {
            "saddlescope": "0.1.0",
            "command": ["saddlescope", "train", f"{method}.toml", "-o", f"runs/{method}"],
            "commit": "0123456789ab",
            "python": "3.11.7",
            "libraries": {"torch": "2.13.0", "numpy": "2.4.6"},
            "platform": "Linux x86_64",
            "processor": "Example CPU",
            "cores": 2,
            "threads": 1,
            "device": "cpu",
            "device_name": None,
            "seed": seed,
            "started": "2026-01-01T00:00:00+00:00",
        },
        "method": method,
        "seed": seed,
        "state": "finished",
        "data": {
            "counts": counts,
            "groups": {"head": numbers[:middle], "tail": numbers[middle:]},
            "class_names": class_names or [f"digit {c}" for c in numbers],
        },
        "switch_epoch": switch,
        "epochs": epochs,
    }
    write_json(folder.run_file, content | (info or {}))
    for row in metric_rows(method, rng, epochs=epochs, switch=switch):
        append_row(folder.metrics_file, row)
    if rows is not None:
        write_spectrum(folder.spectrum_file("last", "train"), rows)
    elif spectrum:
        write_spectrum(
            folder.spectrum_file("last", "train"), spectrum_rows(method, rng, counts=counts)
        )
    return folder.path


@pytest.fixture
def make_run(tmp_path):
    """Write one run folder below a temporary `runs/`."""
    return lambda method, **options: write_run(tmp_path / "runs", method, **options)


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Five methods, one training seed each. Read only."""
    root = tmp_path_factory.mktemp("study")
    for method in METHODS:
        write_run(root, method)
    return root


@pytest.fixture(scope="session")
def seeds_study(tmp_path_factory):
    """Five methods, three training seeds each. Read only."""
    root = tmp_path_factory.mktemp("seeds")
    for method in METHODS:
        for seed in range(3):
            write_run(root, method, seed=seed)
    return root
