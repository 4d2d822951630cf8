"""Fig. 4: λ_ratio by method for all samples, class 0 and class 80, with bounds.

Recipe: train/fig4.toml, then saddlescope spectrum on each run; study:
analysis/05-lambda-ratio-by-class.py.

    python figures/fig4.py [RUNS…]
"""

import sys

from saddlescope.reporting import fig4, save_figure, select_runs

chosen = select_runs(sys.argv[1:] or ["runs/fig4"])
for problem in chosen.problems:
    print(f"{problem.name}: {problem.reason}", file=sys.stderr)
for path in save_figure(fig4(chosen), "figures/out", "fig4"):
    print(path)
