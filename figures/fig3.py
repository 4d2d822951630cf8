"""Fig. 3: accuracy of many, medium and few classes by epoch for SAM, ImbSAM and SSE-SAM.

Recipe: train/fig3.toml.

    python figures/fig3.py [RUNS…]
"""

import sys

from saddlescope.reporting import fig3, load_runs, save_figure

runs, problems = load_runs(sys.argv[1:] or ["runs/fig3"])
for problem in problems:
    print(f"{problem.name}: {problem.reason}", file=sys.stderr)
for path in save_figure(fig3(runs), "figures/out", "fig3"):
    print(path)
