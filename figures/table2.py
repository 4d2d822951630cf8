"""Table 2: accuracy on ImageNet-LT.

As CSV, Markdown and LaTeX: measured, as printed, the difference, and the command for each gap.
Recipes: train/table2-imagenet.toml.

    python figures/table2.py [RUNS…]
"""

import sys

from saddlescope.reporting import save_table, select_runs

chosen = select_runs(sys.argv[1:] or ["runs/table2-imagenet"])
for problem in chosen.problems:
    print(f"{problem.name}: {problem.reason}", file=sys.stderr)
for path in save_table(chosen, "table2", "figures/out"):
    print(path)
