"""Small networks and data sets with known or dense Hessians."""

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
        return loss(lambda *args, **kwargs: functional_call(model, parameters, args, kwargs))

    return torch.autograd.functional.hessian(
        of_vector, torch.cat([p.reshape(-1) for p in named.values()])
    )
