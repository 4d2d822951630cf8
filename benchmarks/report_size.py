"""How long the HTML report of a large study takes, and how big it is.

    python -m benchmarks.report_size -o report.json

The run folders are made up, in the shapes of long CIFAR-100 runs: five methods by ten seeds, 200
epochs with the accuracy of every class, and a spectrum row of every class and of all, head and
tail. Seconds of the whole of `write_report`, reading included, the median of three calls; those of
the processor are fewer where other work runs on the machine. `parts` says where the bytes are:
figures drawn on the page, files to download (encoded), the rest.
"""

import argparse
import math
import random
import re
import statistics
import tempfile
import time
from pathlib import Path

from saddlescope.reporting import write_report
from saddlescope.runs import (
    METHODS,
    SPECTRUM_COLUMNS,
    RunFolder,
    provenance,
    write_json,
    write_spectrum,
    write_text,
)
from saddlescope.runs.tables import rewrite_rows

RECIPE = """name = "{name}"
[data]
name = "cifar100"
imbalance_factor = 100.0
[model]
name = "resnet32"
[training]
epochs = {epochs}
seed = {seed}
[method]
name = "{method}"
"""


def epochs_of(options, generator):
    """Rows of metrics.jsonl."""
    for epoch in range(options.epochs):
        left = math.exp(-5 * epoch / options.epochs)
        classes = [1 - (0.3 + 0.7 * left) * generator.random() for _ in range(options.classes)]
        row = {"epoch": epoch, "stage": 1, "lr": 0.1 * left, "train_loss": 4 * left}
        row |= {"loss_head": 3 * left, "loss_tail": 5 * left, "acc_per_class": classes}
        for shot in ("many", "medium", "few", "avg"):
            accuracy = 0.6 * (1 - left) + 0.02 * generator.random()
            row |= {f"acc_{shot}": accuracy, f"acc_{shot}_flip": 0.99 * accuracy}
        yield row | {"seconds": 10 + generator.random(), "images_per_s": 1000.0}


def spectrum_of(options, method, seed, counts, generator):
    """Rows of spectrum/last-train.csv."""
    middle = len(counts) // 2
    sizes = {"all": sum(counts), "head": sum(counts[:middle]), "tail": sum(counts[middle:])}
    named = [("group", name, n) for name, n in sizes.items()]
    named += [("class", str(number), n) for number, n in enumerate(counts)]
    for kind, name, n in named:
        largest = 50 * math.exp(generator.gauss(0, 0.3))
        smallest = -largest / (20 * math.exp(generator.gauss(0, 0.3)))
        row = dict.fromkeys(SPECTRUM_COLUMNS, "") | {
            "name": name, "kind": kind, "n": n, "confidence": 0.999, "matvecs": 30,
            "gradient_cost": 64.0, "gradient_norm": generator.random(), "loss": generator.random(),
            "noise": 1e-6 * generator.random(), "stop_rule": "interval", "converged": True,
            "verdict": "negative-curvature", "run": f"{method}-seed{seed}", "method": method,
            "split": "train", "criterion": "ce", "operator": "hessian", "parameters": "*",
            "weight_decay": 0.0, "epoch": options.epochs - 1, "checkpoint": "last", "seed": 0,
            "dtype": "float32", "device": "cpu", "digest": f"{method}-{seed}",
            "settings": "rtol=0.05 atol=1e-05 confidence=0.999 certify=1 max_matvecs=200",
        }  # fmt: skip
        for end, value in (("max", largest), ("min", smallest)):
            row |= {
                f"lambda_{end}": value,
                f"lambda_{end}_lower": value - 0.01 * abs(value),
                f"lambda_{end}_upper": value + 0.01 * abs(value),
                f"lambda_{end}_residual": 1e-4 * generator.random(),
            }
        ratio = largest / -smallest
        ends = {"lower": 0.98 * ratio, "upper": 1.02 * ratio}
        row |= {"lambda_ratio": ratio} | {f"lambda_ratio_{end}": x for end, x in ends.items()}
        yield row


def write_runs(root, options):
    """Write the folders of all methods and seeds."""
    names = [f"a class named {number}" for number in range(options.classes)]
    counts = [
        max(5, round(500 * 0.01 ** (number / max(1, options.classes - 1))))
        for number in range(options.classes)
    ]
    numbers = list(range(options.classes))
    middle = options.classes // 2
    made = provenance() | {"command": ["saddlescope", "train", "cifar100.toml"]}
    for method in METHODS:
        for seed in range(options.seeds):
            generator = random.Random(f"{method} {seed}")
            folder = RunFolder(root / f"{method}-seed{seed}")
            words = {"name": folder.name, "method": method, "seed": seed}
            write_text(folder.recipe_file, RECIPE.format(epochs=options.epochs, **words))
            content = {
                "state": "finished", "method": method, "seed": seed, "epochs": options.epochs,
                "switch_epoch": round(0.7 * options.epochs) if method == "sse-sam" else None,
                "data": {
                    "name": "cifar100", "counts": counts, "class_names": names,
                    "groups": {"head": numbers[:middle], "tail": numbers[middle:]},
                },
                "provenance": made | {"seed": seed},
            }  # fmt: skip
            write_json(folder.run_file, content)
            rewrite_rows(folder.metrics_file, epochs_of(options, generator))
            table = spectrum_of(options, method, seed, counts, generator)
            write_spectrum(folder.spectrum_file("last", "train"), table)


def parts(html):
    """Bytes of the page by what they are for."""
    drawn = sum(len(text.encode()) for text in re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    files = dict(re.findall(r'download="([^"]+)" href="(data:[^"]+)"', html))
    sizes = {"figures": drawn, "files": {name: len(text) for name, text in files.items()}}
    return sizes | {"rest": len(html.encode()) - drawn - sum(sizes["files"].values())}


def main():
    """Make the folders, write the report a few times and print and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="keep the last report here")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs, page = Path(temporary) / "runs", options.keep or Path(temporary) / "report.html"
        write_runs(runs, options)
        read = sum(path.stat().st_size for path in runs.rglob("*") if path.is_file())
        seconds, processor = [], []
        for _ in range(options.repeats):
            began, busy = time.perf_counter(), time.process_time()
            report = write_report([runs], page)
            seconds.append(time.perf_counter() - began)
            processor.append(time.process_time() - busy)
        assert not report.problems, report.problems
        content = {
            "provenance": provenance(),
            "runs": len(METHODS) * options.seeds,
            "classes": options.classes,
            "epochs": options.epochs,
            "bytes_read": read,
            "seconds": statistics.median(seconds),
            "processor_seconds": statistics.median(processor),
            "all_seconds": seconds,
            "bytes": page.stat().st_size,
            "parts": parts(page.read_text(encoding="utf-8")),
        }
    print(f"{content['seconds']:.1f} s ({content['processor_seconds']:.1f} s of the processor), "
          f"{content['bytes'] / 1e6:.1f} MB")  # fmt: skip
    print(content["parts"])
    if options.output:
        write_json(options.output, content)


if __name__ == "__main__":
    main()
