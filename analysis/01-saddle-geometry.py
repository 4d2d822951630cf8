# %% [markdown]
# # 1. The geometry of a saddle
#
# *What do λ_max, λ_min and their ratio say about a point of a loss surface, and what not?*
#
# Near a point $w_0$ a smooth loss is, to second order,
#
# $$L(w) = L(w_0) + \langle g, u\rangle + \tfrac12\langle u, H u\rangle, \qquad u = w - w_0 .$$
#
# The gradient $g$ says which way is down now. The Hessian $H$ says how the slope changes: along
# its eigenvector $v$ the loss bends up if $\lambda > 0$ and down if $\lambda < 0$. A *strict
# saddle* is a point with $g = 0$ and $\lambda_{\min} < 0$. All pictures below are computed, none
# is drawn.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from saddlescope import extreme_eigenvalues
from saddlescope.curvature import MatrixOperator
from saddlescope.reporting import use_house_style
from saddlescope.theory import (
    STATEMENTS,
    check,
    double_well,
    matrix_factorisation,
    monkey_saddle,
    principal_curvatures,
    two_layer_linear,
    weingarten,
)
from saddlescope.theory.curvature_of_graphs import observed_order

use_house_style()

# %% [markdown]
# ## Two saddles
#
# Left: $L = \frac12 x^2 - \frac12 y^2 + \frac14 c\,y^4$, a strict saddle between two wells.
# Right: the *monkey saddle* $x^3 - 3xy^2$, which has a way down for each leg and one for the
# tail. Its Hessian at the saddle is zero: there is no $\lambda_{\min} < 0$ to find, and no
# curvature-based tool, this one included, can tell it from a flat place.

# %%
well, monkey = double_well(), monkey_saddle()
grid = np.stack(np.meshgrid(np.linspace(-1.6, 1.6, 161), np.linspace(-1.6, 1.6, 161)), -1)
figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
for axes, surface in zip(panels, (well, monkey), strict=True):
    values = surface.loss(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    shown = axes.contourf(*np.moveaxis(grid, -1, 0), values.clip(-1.5, 1.5), 21, cmap="RdBu_r")
    axes.plot(0, 0, "k+", ms=12)
    high, low, _ = surface.ends_at(surface.saddle)
    axes.set(xlabel="x", ylabel="y", title=f"{surface.name}: λ_max = {high:g}, λ_min = {low:g}")
    axes.set_aspect("equal")
figure.colorbar(shown, ax=panels, label="L")
plt.show()

# %% [markdown]
# ## What λ_ratio measures
#
# The paper compares networks by $\lambda_{ratio} = |\lambda_{\max}/\lambda_{\min}|$ and reads a
# high value as "far from a saddle". Below, three double wells with the same way down and a
# steeper and steeper wall beside it: 1, 10 and 100.

# %%
figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained", sharey=True)
t = np.linspace(-1.0, 1.0, 201)
for axes, up in zip(panels, (1.0, 10.0, 100.0), strict=True):
    surface = double_well(up=up)
    along = np.stack([np.zeros_like(t), t], 1)
    across = np.stack([t, np.zeros_like(t)], 1)
    axes.plot(t, surface.loss(along), label="along v_min")
    axes.plot(t, surface.loss(across), "--", label="along v_max")
    axes.set(ylim=(-0.4, 1.2), xlabel="distance from the saddle", title=f"λ_ratio = {up:g}")
panels[0].set_ylabel("L")
panels[0].legend()
plt.show()

# %% [markdown]
# The ratio changed a hundredfold and the point is a saddle in all three: **λ_ratio does not
# measure a distance from a saddle.** It says how much of the curvature is the downward one. A
# high ratio limits the step size (gradient descent needs $\eta < 2/\lambda_{\max}$), and then
# $\eta|\lambda_{\min}| < 2/\lambda_{ratio}$: with a high ratio every stable step grows the
# component along $v_{\min}$ by little. That is a statement about how *slowly* a saddle is left,
# nearly the opposite reading. Whether a network is at a saddle needs the gradient beside it,
# which is why every table here has a column `gradient_norm`.

# %% [markdown]
# ## Saddles of networks
#
# Two small models whose saddles are known exactly. In a *two-layer linear network*
# $\frac12\|W_2W_1 - M\|^2$ the origin is a saddle with eigenvalues $\pm\sigma_i(M)$, so
# $\lambda_{ratio}=1$. In a *matrix factorisation* $\frac14\|UU^\top - M\|^2$ a factor that uses
# one direction only is one, with $\lambda_{\max} = 2\lambda_1(M)$ and
# $\lambda_{\min} = -\lambda_2(M)$.

# %%
M = np.diag([3.0, 1.0, 0.5])
for surface in (two_layer_linear(M, hidden=2), matrix_factorisation(M, rank=2)):
    high, low, _ = surface.ends_at(surface.saddle)
    print(f"{surface.name:25} λ_max {high:6.3f}   λ_min {low:6.3f}   λ_ratio {abs(high / low):.3f}")

# %% [markdown]
# ## Both ends from products alone
#
# A network's Hessian has as many rows as the network has weights; it is never formed. Lanczos
# needs products $Hv$ only, and gives both ends with an interval each. Here on a matrix small
# enough to know the truth: 2000 eigenvalues, a bulk near zero and a few outliers, as trained
# networks have.

# %%
generator = np.random.default_rng(0)
truth = np.concatenate([generator.normal(0, 0.02, 1990), [-1.0, -0.6, 1.5, 2, 3, 5, 8, 10, 15, 20]])
basis = np.linalg.qr(generator.standard_normal((2000, 2000)))[0]
matrix = torch.tensor((basis * truth) @ basis.T)
ends = extreme_eigenvalues(MatrixOperator((matrix + matrix.T) / 2), rtol=1e-2, seed=0)
print(f"{ends.matvecs} products of 2000 × 2000")
for name, wanted, found in (
    ("λ_max", 20, ends.lambda_max),
    ("λ_min", -1, ends.lambda_min),
    ("λ_ratio", 20, ends.lambda_ratio),
):
    print(f"{name:8} {wanted:3}: {found.value:8.4f} in [{found.lower:8.4f}, {found.upper:8.4f}]")

# %% [markdown]
# ## Off the saddle: the Weingarten map
#
# Away from a critical point the paper (Eq. 5) replaces $H$ by the *Weingarten map* of the graph
# of the loss, $W = (I - gg^\top/\alpha^2)\,H/\alpha$ with $\alpha^2 = 1 + \|g\|^2$. Its
# eigenvalues are the principal curvatures of the graph, computed independently below from the two
# fundamental forms.

# %%
tally = check(STATEMENTS["weingarten"][0], trials=2000)
print(f"{tally.hypothesis_met} random graphs, {tally.violations} where W is not what Eq. 5 says")

# %% [markdown]
# Near a saddle the direction of the smallest principal curvature tends to $v_{\min}$, and it does
# so quadratically in $\|g\|$, because only $gg^\top$ enters:

# %%
square = generator.standard_normal((6, 6))
H = (square + square.T) / 2
v_min = np.linalg.eigh(H)[1][:, 0]
g = generator.standard_normal(6)
g /= np.linalg.norm(g)
lengths = 10.0 ** np.linspace(-3.5, 0.5, 41)
angles = []
for length in lengths:
    direction = principal_curvatures(H, length * g)[1][:, 0]
    angles.append(np.sqrt(max(0.0, 1 - (direction @ v_min / np.linalg.norm(direction)) ** 2)))
figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
axes.loglog(lengths, angles, "o", ms=3)
axes.loglog(lengths, lengths**2, "k--", lw=1, label="slope 2")
axes.set(xlabel="‖∇L‖", ylabel="sine of the angle to v_min")
axes.legend()
off = abs(weingarten(H, 1e-3 * g) - H).max()
print(f"observed order {observed_order():.3f}; at ‖∇L‖ = 0.001 W differs from H by {off:.1e}")
plt.show()

# %% [markdown]
# **For training.** λ_min < 0 with a small gradient is a saddle, λ_ratio is not its distance, and
# at the gradients that trained networks have (‖∇L‖ of the whole set well below 1) the Weingarten
# map says the same as the Hessian. Of a single rare class the gradient is large, and then the two
# differ: `saddlescope spectrum --operator weingarten` measures the second.
