"""Fig. 3: accuracy of many, medium and few classes by epoch for SAM, ImbSAM and SSE-SAM.

Recipe: train/fig3.toml.

    python figures/fig3.py [RUNS…]
"""

import sys

from saddlescope.reporting import fig3, save_figure, select_runs

chosen = select_runs(sys.argv[1:] or ["runs/fig3"])
for problem in chosen.problems:
    print(f"{problem.name}: {problem.reason}", file=sys.stderr)
for path in save_figure(fig3(chosen), "figures/out", "fig3"):
    print(path)
