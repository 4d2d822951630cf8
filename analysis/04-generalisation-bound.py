# %% [markdown]
# # 4. Theorem 6: a bound on the generalisation gap
#
# **The statement** (Eq. 11). With probability $1-\delta$, the loss on the distribution is at most
#
# $$L_S(w) + \rho^2\sqrt{\frac{d}{4\pi}}\max_{\|\epsilon\|\le\rho}\lambda_{\max}(w+\epsilon)
# + \frac{M}{\sqrt n} + \frac{B}{\sqrt{n-1}}, \qquad
# B = \frac d4\log\Bigl(1 + \frac{\|w\|^2(\sqrt d+\sqrt{\log n})^2}{d\rho^2}\Bigr)
# + \frac14 + \log\frac n\delta + 2\log(6n+3d).$$
#
# The SAM bound that it descends from (Foret et al., 2021) has $\sqrt{B/(n-1)}$ in its place; the
# root is missing in print. Both are evaluated. The loss must be bounded by $M$, which
# cross-entropy is not; $M = 10$ below.

# %%
import os
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from saddlescope.experiments import inner_maximum, largest_curvature
from saddlescope.measurement import Settings, SpectrumJob, run_target
from saddlescope.reporting import use_house_style
from saddlescope.runs import RunFolder
from saddlescope.theory import BoundTerms, bound_terms, generalisation_bound
from saddlescope.training import RunOptions, load_recipe, load_section, train

use_house_style()
quick = bool(os.environ.get("SADDLESCOPE_QUICK"))

# %% [markdown]
# ## At the paper's size
#
# ResNet-34 (21.3 million parameters), CIFAR-100-LT (10,847 images), $\rho = 0.05$. Set everything
# else to its best: loss 0, curvature 0.

# %%
size = BoundTerms(
    loss=0.0, lambda_max=0.0, rho=0.05, parameters=21_300_000, samples=10_847, weight_norm=30.0
)
bounds = {
    length: generalisation_bound(replace(size, weight_norm=length), most=10.0)
    for length in (10.0, 30.0, 100.0)
}
pd.DataFrame(
    {f"‖w‖ = {length:g}": [bound.printed, bound.rooted] for length, bound in bounds.items()},
    index=["as printed", "with the root"],
)

# %% [markdown]
# A loss that never exceeds 10 is bounded by half a million, or by seventy. The bound is
# **vacuous**: it says less than "at most $M$", whatever the optimiser did. How many samples would
# make it speak, all else equal?

# %%
n = 10.0 ** np.arange(4, 12)
rooted = [generalisation_bound(replace(size, samples=int(k)), most=10.0).rooted for k in n]
figure, axes = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
axes.loglog(n, rooted, "o-", label="bound with the root, L_S = λ_max = 0")
axes.axhline(10.0, color="k", ls="--", lw=1, label="M: what the loss never exceeds")
axes.axvline(10_847, color="0.6", lw=1)
axes.text(12_000, 2, "CIFAR-100-LT", fontsize=8)
axes.set(xlabel="samples n", ylabel="loss")
axes.legend()
plt.show()

# %% [markdown]
# ## Of a run
#
# The term with λ_max asks for its largest value over a *ball*, not at $w$. It is sought at five
# points of the ball: $w$, SAM's first-order point, the worst loss that projected ascent finds,
# and $w \pm \rho v_{\max}$. The largest is a lower bound of the maximum.

# %%
runs = Path(os.environ.get("SADDLESCOPE_RUNS", "../runs"))
shorter = ["training.epochs=10", "model.name=two-layer-linear"] * quick
recipe = load_recipe("../train/digits-study.toml", overrides=shorter)
run = RunFolder(runs / recipe.run_name)
train(recipe, load_section(recipe.data), run, RunOptions(resume=True))
target = run_target(run)
groups = ("all", "head", "tail")
job = SpectrumJob.plan(
    target, classes=[], groups=groups, settings=Settings(), path=run.spectrum_file("last", "train")
)
job.run()
tried = largest_curvature(target, rho=0.05, steps=3 if quick else 20)
pd.Series(tried, name="λ_max, upper end of the interval").to_frame()

# %%
length = sum(p.detach().double().square().sum() for p in target.model.parameters()).sqrt().item()
terms = replace(bound_terms(run, weight_norm=length), lambda_max=max(tried.values()))
bound = generalisation_bound(terms, most=10.0)
parts = {
    "L_S(w)": bound.loss,
    "curvature": bound.curvature,
    "M/√n": bound.of_bounded_loss,
    "bracket, with the root": bound.complexity_rooted,
    "bracket, as printed": bound.complexity,
}
figure, axes = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
bars = axes.barh(list(parts), list(parts.values()))
axes.bar_label(bars, fmt="%.3g", padding=3)
axes.axvline(10.0, color="k", ls="--", lw=1)
axes.text(11, -0.35, "M", va="center")
axes.set(xscale="log", xlabel="contribution to the bound", xlim=(1e-4, 1e6))
axes.invert_yaxis()
plt.show()

# %% [markdown]
# ## Eq. 2: is SAM's ascent step the worst point of the ball?
#
# SAM replaces $\max_{\|\epsilon\|\le\rho} L(w+\epsilon)$ by the value at
# $\epsilon = \rho\nabla L/\|\nabla L\|$. `ratio` is the gain of that point over the largest gain
# found, `cosine` how well the two directions agree.

# %%
rows = inner_maximum(target, steps=3 if quick else 40, starts=1 if quick else 3)
pd.DataFrame(rows)[
    ["name", "rho", "loss", "gain_linear", "gain_first_order", "gain_ascent", "ratio", "cosine"]
].round(5)

# %% [markdown]
# **For training.** No conclusion about generalisation follows from Theorem 6 at these sizes, in
# either form. Its second term is of interest by itself: λ_max over the ball can be many times
# λ_max at $w$, so a small λ_max at a checkpoint is not flatness over $\rho$. And at a fitted
# network SAM's first-order point finds only a part of the loss that the ball holds.
