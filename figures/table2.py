"""Table 2: accuracy on ImageNet-LT.

As CSV, Markdown and LaTeX: measured, as printed, the difference, and the command for each gap.
Recipes: train/table2-imagenet.toml.

    python figures/table2.py [RUNS…]
"""

import sys

from saddlescope.reporting import load_runs, save_table

runs, problems = load_runs(sys.argv[1:] or ["runs/table2-imagenet"])
for problem in problems:
    print(f"{problem.name}: {problem.reason}", file=sys.stderr)
for path in save_table(runs, "table2", "figures/out"):
    print(path)
