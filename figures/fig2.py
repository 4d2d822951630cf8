"""Fig. 2: SGD and SAM from near a saddle, the true trajectories.

The paper does not give its function: one panel shows where SAM is slower, one where Theorem 1
holds. Study: analysis/02-theorem-1.py.

    python figures/fig2.py
"""

from saddlescope.reporting import fig2, save_figure, select

for path in save_figure(fig2(select([])), "figures/out", "fig2"):
    print(path)
