# %% [markdown]
# # 5. λ_ratio by class: the study of Fig. 4
#
# Fig. 4 of the paper compares SGD, SAM, ImbSAM, SAM (ext.) and SSE-SAM by the ratio
# $\lambda_{ratio} = |\lambda_{\max}/\lambda_{\min}|$ of the Hessian of the loss on all samples, on
# the largest class and on a rare one. No number is printed there, and no bound. Here: the same
# comparison on the small default, with bounds, and on CIFAR-100-LT as far as it has been run.

# %%
import os
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from saddlescope.reporting import (
    accuracy_table,
    fig4,
    find,
    method_style,
    ratio_by_class,
    select_runs,
    summary_text,
    use_house_style,
)
from saddlescope.runs import METHODS

use_house_style()
quick = bool(os.environ.get("SADDLESCOPE_QUICK"))

# %% [markdown]
# ## The small default
#
# `saddlescope demo` trains the five methods on long-tailed digits (130 images of class 0, 6 of
# class 9) and measures all, head, tail and every class; about two minutes on two cores. Called
# again it does what is missing.

# %%
demo = Path(os.environ.get("SADDLESCOPE_RUNS", "../runs")) / "demo"
shorter = ["--set", "training.epochs=1", "--set", "model.name=two-layer-linear"] * quick
subprocess.run(["saddlescope", "demo", "-o", str(demo), *shorter], check=True, capture_output=True)
chosen = select_runs([demo])
accuracy_table(chosen)

# %%
fig4(chosen)

# %% [markdown]
# The bars' whiskers are the bounds at 99.9 %: numerical uncertainty of *one* checkpoint. What
# another seed would give is not in them. Every class, in the order of its size:

# %%
ratio_by_class(chosen)

# %%
print(summary_text(chosen))

# %% [markdown]
# ## The paper's claims, held against these runs

# %%
claims = pd.DataFrame([vars(claim) for claim in find(chosen).claims])
claims[["source", "statement", "verdict"]].style.hide(axis="index")

# %% [markdown]
# ## CIFAR-100-LT, small
#
# `train/table1-cifar100-small.toml` (ResNet-8, 20 epochs, imbalance 100) on the real images. The
# table beside this notebook holds what was measured, with its provenance; `saddlescope train` and
# `saddlescope spectrum` with the commands in `results/README.md` make it anew.

# %%
here = Path(__file__).parent if "__file__" in globals() else Path(".")
measured = pd.read_csv(here / "results" / "cifar100-small-spectra.csv")
names = {
    "0": "class 0 (500 images)",
    "40": "class 40 (77)",
    "80": "class 80 (12)",
    "99": "class 99 (5)",
}
measured["name"] = measured["name"].astype(str)
figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
methods = [method for method in METHODS if method in set(measured["method"])]
for index, method in enumerate(methods):
    style = method_style(method)
    for position, name in enumerate(names):
        rows = measured[(measured["method"] == method) & (measured["name"] == name)]
        at = [position + 0.12 * (index - 2)] * len(rows)
        low, high = (
            rows["lambda_ratio"] - rows["lambda_ratio_lower"],
            rows["lambda_ratio_upper"] - rows["lambda_ratio"],
        )
        axes.errorbar(
            at,
            rows["lambda_ratio"],
            yerr=[low, high],
            fmt=style.marker,
            ms=5,
            color=style.color,
            lw=1,
            label=METHODS[method].label if position == 0 else None,
        )
axes.set(xticks=range(len(names)), xticklabels=names.values(), ylabel="λ_ratio", ylim=(0, None))
axes.legend(ncols=5, fontsize=8)
plt.show()

# %%
measured.pivot_table(
    index="method", columns="name", values="lambda_ratio", aggfunc=["mean", "count"]
).round(2)

# %% [markdown]
# **What it means.** Points of one method are its training seeds. Where their spread is as wide as
# the distance between methods, the order of a single seed says nothing; that is the state of Fig.
# 4's claims wherever three seeds are not at hand. These networks are far smaller than the
# paper's, and trained for a tenth of its epochs: they neither confirm nor refute it.
