"""Table 3: accuracy by imbalance factor and radii on CIFAR-100-LT.

As CSV, Markdown and LaTeX: measured, as printed, the difference, and the command for each gap.
Recipes: train/table3.toml.

    python figures/table3.py [RUNS…]
"""

import sys

from saddlescope.reporting import save_table, select_runs

chosen = select_runs(sys.argv[1:] or ["runs/table3"])
for problem in chosen.problems:
    print(f"{problem.name}: {problem.reason}", file=sys.stderr)
for path in save_table(chosen, "table3", "figures/out"):
    print(path)
