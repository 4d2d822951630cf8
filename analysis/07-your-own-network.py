# %% [markdown]
# # 7. Your own network
#
# Nothing of the paper is needed here: a network, a loss, and samples. Those below stand in for
# yours; put your own in their place and go on.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from saddlescope import (
    HessianOperator,
    SharpnessAware,
    class_spectra,
    extreme_eigenvalues,
    spectral_density,
)
from saddlescope.curvature import CurvatureMonitor, loss_slice
from saddlescope.reporting import use_house_style

torch.manual_seed(0)
use_house_style()

# %% [markdown]
# ## A network and data
#
# Three arms of a spiral, the third with a twentieth of the samples of the first.

# %%
counts = (200, 60, 10)
classes = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
along = torch.rand(len(classes)) * 0.9 + 0.1
angle = 4 * along + classes * 2 * torch.pi / 3
inputs = along[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
inputs += 0.03 * torch.randn_like(inputs)


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3)
    )


figure, axes = plt.subplots(figsize=(4, 3.6), layout="constrained")
for c in range(3):
    axes.scatter(*inputs[classes == c].T, s=12, label=f"class {c}, {counts[c]} samples")
axes.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
axes.legend()
plt.show()

# %% [markdown]
# ## Train, and watch
#
# The monitor measures the classes every few epochs. It starts from the last eigenvectors, so the
# later measurements are cheap, and leaves the training as it was.

# %%
criterion = nn.CrossEntropyLoss()
monitor = CurvatureMonitor(criterion, (inputs, classes), classes="all", every=50)


def train(model, optimizer, watch=None):
    for epoch in range(401):
        if watch is not None:
            watch(model.eval(), epoch)
        model.train()
        optimizer.zero_grad()
        criterion(model(inputs), classes).backward()
        optimizer.step()
    return model.eval()


model = network()
train(model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9), monitor)
watched = monitor.frame()
figure, (above, below) = plt.subplots(2, 1, figsize=(5.5, 4.5), sharex=True, layout="constrained")
for name, rows in watched[watched.kind == "class"].groupby("name"):
    above.plot(rows.epoch, rows.lambda_max, marker="o", ms=3, label=f"class {name}")
    below.plot(rows.epoch, rows.lambda_min, marker="o", ms=3)
above.set(ylabel=r"$\lambda_{\max}$", yscale="log")
below.set(xlabel="epoch", ylabel=r"$\lambda_{\min}$")
above.legend()
plt.show()

# %% [markdown]
# ## A table of the classes
#
# One row a class. Every number comes with an interval that holds the eigenvalue of this very matrix
# (the Hessian of the mean loss over these samples, at these weights) with 99.9 % confidence.

# %%
table = class_spectra(model, criterion, (inputs, classes), classes="all")
table[["kind", "name", "n", "lambda_max", "lambda_min", "lambda_ratio", "loss", "verdict"]]

# %% [markdown]
# ## One matrix, looked at
#
# Behind each row stands an operator: products with the Hessian, never the matrix itself. Its ends,
# its density, and the loss along the direction of most negative curvature:

# %%
rare = classes == 2
H = HessianOperator(model, criterion, [(inputs[rare], classes[rare])])
ends = extreme_eigenvalues(H, eigenvectors=True)
print(H)
print("λ_max", ends.lambda_max, " λ_min", ends.lambda_min, " λ_ratio", ends.lambda_ratio)
assert ends.lambda_min.lower <= ends.lambda_min.value <= ends.lambda_min.upper

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
spectral_density(H, steps=40, probes=4).plot(left)
v_max, v_min = ends.eigenvectors
loss_slice(H, v_min, np.linspace(-2, 2, 41)).plot(right)
plt.show()

# %% [markdown]
# With 1,000 parameters or so the whole matrix can be had. So check the instrument: its two ends
# against all eigenvalues.

# %%
dense = torch.stack([H.matvec(row) for row in torch.eye(H.size)])
eigenvalues = torch.linalg.eigvalsh(((dense + dense.T) / 2).double())
print(f"all {H.size} eigenvalues: from {eigenvalues[0]:.5f} to {eigenvalues[-1]:.5f}")
assert ends.lambda_min.lower - 1e-4 <= eigenvalues[0] <= ends.lambda_min.upper + 1e-4
assert ends.lambda_max.lower - 1e-4 <= eigenvalues[-1] <= ends.lambda_max.upper + 1e-4

# %% [markdown]
# ## Where in the network?
#
# The same for parts of it: names of modules, patterns, or the modules themselves.

# %%
for part in ("0", "2", "4"):
    own = HessianOperator(model, criterion, [(inputs[rare], classes[rare])], parameters=part)
    found = extreme_eigenvalues(own)
    print(f"layer {part}: λ_max {found.lambda_max}, λ_min {found.lambda_min}")

# %% [markdown]
# ## Another optimiser
#
# `SharpnessAware` goes round any optimiser of torch. Here the gradient is that at $w + \varepsilon$
# with $\|\varepsilon\| = 0.05$.

# %%
flat = network()
optimizer = SharpnessAware(flat.parameters(), torch.optim.SGD, rho=0.05, lr=0.5, momentum=0.9)
for _ in range(401):
    optimizer.step(lambda: criterion(flat(inputs), classes))
other = class_spectra(flat.eval(), criterion, (inputs, classes), classes="all")
columns = ["lambda_max", "lambda_min", "lambda_ratio", "loss"]
table.merge(other, on="name", suffixes=("_sgd", "_sam"))[
    ["name", *(f"{column}_{method}" for column in columns for method in ("sgd", "sam"))]
]

# %% [markdown]
# ## What it means
#
# One network of each kind says nothing about the methods: train several seeds before you compare,
# and look at the losses, since both ends shrink with them. What one network does say stands in its
# own rows: whether negative curvature is left for a class, how large it is, and how well that is
# known.
#
# The same from the command line, with every finished row kept on disk:
# `saddlescope spectrum --model mynet:network --data mynet:samples -o spectrum.csv`, and
# `saddlescope report spectrum.csv` makes a page of it.
