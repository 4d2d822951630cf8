"""What people hand to `--model` and `--data`, and the command that measures it."""

from typer.testing import CliRunner

from saddlescope.cli.main import app

SOURCE = """
import torch
from torch import nn

X, Y = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.inner, self.wrap = net(), wrap
    def forward(self, x):
        return self.wrap(self.inner(x))

def logits(): return Wrapped(lambda z: {"logits": z, "hidden": z})
def pair(): return Wrapped(lambda z: (z, z))
def scores(): return Wrapped(lambda z: {"scores": z})
def one(): return Wrapped(lambda z: z[:, 0])
def compiled(): return torch.compile(net(), backend="aot_eager")
def double(): return net().double()
def gate(): return nn.Sequential(nn.Linear(6, 4), nn.Hardsigmoid(), nn.Linear(4, 3))
def needs(width): return nn.Linear(width, 3)
def regressor():
    torch.manual_seed(0)
    return nn.Linear(6, 2)
class Output:
    def __init__(self, logits): self.logits = logits
def object_(): return Wrapped(Output)
def fails(): return {}["encoder"]
def leaves(): raise SystemExit("usage: train.py FILE")
module = net()
NUMBER = 5

def data(): return X, Y
def data64(): return X.double(), Y
def from_one(): return X, Y + 1
def missing(): return open("images.npy")
class Keyed(torch.utils.data.Dataset):
    def __len__(self): return 12
    def __getitem__(self, i): return {"x": X[i], "labels": int(Y[i])}
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 12
    def __getitem__(self, i): return X[i], int(Y[i])
def loader(): return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 5)
def shuffled(): return torch.utils.data.DataLoader(Rows(), 5, shuffle=True)
def values(): return X, X[:, :2]
def moved(): return X + 1, Y
def fewer(): return X[:9], Y[:9]
def relabelled(): return X, Y.flip(0)
class Moved(Rows):
    def __getitem__(self, i): return X[i] + 1, int(Y[i])
def moved_loader(): return torch.utils.data.DataLoader(Moved(), 5)
class Halved(nn.CrossEntropyLoss):
    def forward(self, outputs, targets): return super().forward(outputs["logits"], targets) * 0.5
class Weighted(nn.CrossEntropyLoss):
    def __init__(self): super().__init__(weight=torch.tensor([1.0, 2.0, 5.0]))
def frozen():
    network = net()
    network[0].requires_grad_(False)
    return network
def domains():
    rows = [{"input": X[i], "labels": int(Y[i]), "domain": "ab"[i % 2]} for i in range(12)]
    return torch.utils.data.DataLoader(rows, 5)
def positive(sample): return "yes" if sample[0].sum() > 0 else "no"
places = {"first": [0, 1, 2, 3], "rest": range(4, 12)}
def squares(outputs, targets): return (outputs - targets).square().mean()
def whole():
    from saddlescope import BatchLoss
    return BatchLoss(lambda model, batch: (model(batch[0]) - batch[1]).square().mean())
loss = whole()
class Broken(Rows):
    def __getitem__(self, i): return X[i], int(Y[i]) // (5 - i)
"""


def spectrum(model, data, *options):
    arguments = ["spectrum", "--model", model, "--data", data, "--classes", "none", *options]
    return CliRunner().invoke(app, arguments)
