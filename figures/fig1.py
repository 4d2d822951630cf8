"""Fig. 1: the two stages of SSE-SAM, with the accuracies that runs had before and after the switch.

The paper's figure is a sketch of the idea; here it is drawn from metrics. Recipe: train/fig3.toml.

    python figures/fig1.py [RUNS…]
"""

import sys

from saddlescope.reporting import fig1, save_figure, select_runs

chosen = select_runs(sys.argv[1:] or ["runs/fig3"])
for problem in chosen.problems:
    print(f"{problem.name}: {problem.reason}", file=sys.stderr)
for path in save_figure(fig1(chosen), "figures/out", "fig1"):
    print(path)
