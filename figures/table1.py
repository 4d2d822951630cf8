"""Table 1: accuracy by loss and method on CIFAR-100-LT and CIFAR-10-LT.

As CSV, Markdown and LaTeX: measured, as printed, the difference, and the command for each gap.
Recipes: train/table1-cifar100.toml and train/table1-cifar10.toml.

    python figures/table1.py [RUNS…]
"""

import sys

from saddlescope.reporting import save_table, select_runs

chosen = select_runs(sys.argv[1:] or ["runs/table1-cifar100", "runs/table1-cifar10"])
for problem in chosen.problems:
    print(f"{problem.name}: {problem.reason}", file=sys.stderr)
for path in save_table(chosen, "table1", "figures/out"):
    print(path)
