"""Small networks and data sets with known or dense Hessians."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call


def convolutional(*, dtype=torch.float64, seed=0, dropout=0.0) -> nn.Module:
    """Convolution, BatchNorm with non-trivial statistics, pooling, linear: 8x8 → 4 classes."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Softplus(),
        nn.Dropout(dropout),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(12, 4),
    ).double()
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2.0)
    return model.to(dtype).eval()


def images(n: int, *, dtype=torch.float64, classes=4, seed=1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 1, 8, 8, generator=generator, dtype=dtype)
    return inputs, torch.randint(0, classes, (n,), generator=generator)


class Restless(nn.Module):
    """The small network, writing a buffer and drawing a random number in every forward pass."""

    def __init__(self):
        super().__init__()
        self.inner = convolutional()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        torch.rand(3)
        return self.inner(x)


class Augmented:
    """Batches that are other ones at each pass."""

    def __init__(self):
        self.calls = 0

    def __iter__(self):
        self.calls += 1
        inputs, targets = images(8)
        yield inputs.roll(self.calls, 0), targets


def split_batches(data, *sizes):
    """Inputs and targets, cut into batches of these sizes."""
    return list(zip(*(part.split(list(sizes)) for part in data), strict=True))


def dense_hessian(model: nn.Module, loss) -> Tensor:
    """∇² of `loss(model_with_parameters)`, row by row, without folding or tracing: (n, n).

    Not by `torch.func.hessian`: its vmap returns an asymmetric matrix for LayerNorm in torch 2.13.
    `loss` takes a callable with the model's signature and returns a scalar.
    """
    named = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    shapes = {name: p.shape for name, p in named.items()}
    sizes = [p.numel() for p in named.values()]

    def of_vector(vector):
        parts = torch.split(vector, sizes)
        parameters = {
            name: part.view(shape)
            for part, (name, shape) in zip(parts, shapes.items(), strict=True)
        }
        # On a copy: torch 2.13 leaves a module that hangs under two names with the substitutes.
        copied = copy.deepcopy(model)
        return loss(lambda *args, **kwargs: functional_call(copied, parameters, args, kwargs))

    return torch.autograd.functional.hessian(
        of_vector, torch.cat([p.reshape(-1) for p in named.values()])
    )
