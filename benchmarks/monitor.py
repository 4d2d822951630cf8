"""What warm starts save a monitor, from one epoch's checkpoint to the next.

    saddlescope train train/cifar100-resnet32-15ep.toml --data-root FOLDER -o runs/c15
    python -m benchmarks.monitor runs/c15 --data-root FOLDER --classes 40 80 -o monitor.json

Two `CurvatureMonitor`s follow the same checkpoints to the same criterion, one from the last epoch's
eigenvectors, one from random vectors alone. Products are counted; the first epoch is cold for both
and does not count. `cosine_…` is how much of the new eigenvector was in the old one.
"""

import argparse
from pathlib import Path

import torch

from saddlescope.curvature import CurvatureMonitor
from saddlescope.measurement import run_target
from saddlescope.runs import RunFolder, provenance, write_json


def check(monitor, model, epoch):
    """The rows of this epoch by kind and name."""
    return {f"{row.kind} {row.name}": row for row in monitor(model, epoch)}


def main():
    """Follow the checkpoints and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--classes", type=int, nargs="*", default=[])
    parser.add_argument("--groups", nargs="*", default=[])
    parser.add_argument("--epochs", type=int, default=11, help="the last so many checkpoints")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    folder = RunFolder(options.run)
    epochs = sorted(
        int(path.stem.removeprefix("epoch-")) for path in folder.checkpoints.glob("epoch-*.pt")
    )[-options.epochs :]
    warm = cold = None
    before, rows = {}, []
    for epoch in epochs:
        target = run_target(folder, checkpoint=str(epoch), data_root=options.data_root)
        if warm is None:
            words = {"groups": options.groups, "classes": options.classes}
            warm, cold = (
                CurvatureMonitor(target.criterion, target.samples, warm=start, **words)
                for start in (True, False)
            )
        started = check(warm, target.model, epoch)
        plain = check(cold, target.model, epoch)
        for name, row in started.items():
            vectors = row.ends.eigenvectors
            found = {
                "epoch": epoch, "row": name, "n": row.n,
                "warm": row.ends.matvecs, "cold": plain[name].ends.matvecs,
                "converged": row.ends.converged and plain[name].ends.converged,
            }  # fmt: skip
            for end, now, then in (
                ("max", row.ends.lambda_max, plain[name].ends.lambda_max),
                ("min", row.ends.lambda_min, plain[name].ends.lambda_min),
            ):
                found |= {
                    f"lambda_{end}": now.value,
                    f"lambda_{end}_cold": then.value,
                    f"width_{end}": now.half_width / abs(now.value),
                    f"width_{end}_cold": then.half_width / abs(then.value),
                }
            if name in before:
                cosines = (before[name] * vectors).sum(1).abs().tolist()
                found |= dict(zip(("cosine_max", "cosine_min"), cosines, strict=True))
            before[name] = vectors
            rows.append(found)
            print(found, flush=True)
        write_json(
            options.output,
            {"provenance": provenance(), "summary": summary(rows, epochs[0]), "rows": rows},
        )


def summary(rows, first):
    """Products over all checks but the first, by row."""
    found = {}
    for name in {row["row"]: None for row in rows}:
        counted = [row for row in rows if row["row"] == name and row["epoch"] != first]
        if counted:
            warm, cold = (sum(row[key] for row in counted) for key in ("warm", "cold"))
            found[name] = {"checks": len(counted), "warm": warm, "cold": cold, "ratio": warm / cold}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
