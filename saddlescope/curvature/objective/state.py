"""Leave no trace: the model is as it was, also after an exception, and arithmetic is exact.

Attention runs in its math form, the one that has a double backward; layers whose output is random
or depends on the batch are refused.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from saddlescope.errors import OperatorError, UsageError

_RANDOM_IN_TRAINING = (nn.modules.dropout._DropoutNd, nn.RReLU)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore modes, `requires_grad`, `.grad`, buffers, attributes and RNG states at the end.

    Meanwhile a compiled model runs as it is written: compiled code has no second derivative.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [
        (buffer, buffer._version, buffer.clone(), module.training)
        for module in model.modules()
        for buffer in module.buffers(recurse=False)
    ]
    cpu_rng = torch.get_rng_state()
    cuda_rng = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        with _as_written(), held_attributes(model):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad, gradient in flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, version, content, training in buffers:
                # BatchNorm's kernels write its running statistics without raising the version, in
                # train mode only. Elsewhere nothing is compared: that would make a device wait.
                if buffer._version != version or (training and not torch.equal(buffer, content)):
                    buffer.copy_(content)
        torch.set_rng_state(cpu_rng)
        if cuda_rng is not None:
            torch.cuda.set_rng_state_all(cuda_rng)


@contextmanager
def held_attributes(model: nn.Module) -> Iterator[list[str]]:
    """Put back what the modules keep as plain attributes: caches, counters, a state carried along.

    Of lists, mappings and sets also what is in them.

    Yields:
        A list, which holds the names of those that had changed when the block has ended.
    """
    saved = [
        (name, module, dict(module.__dict__), _containers(module))
        for name, module in model.named_modules()
    ]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, module, before, contents in saved:
            now = module.__dict__
            written = [key for key, content in contents.items() if not _same(before[key], content)]
            for key in written:
                _fill(before[key], contents[key])
            replaced = [k for k in now if k not in before or now[k] is not before[k]]
            for key in dict.fromkeys([*written, *replaced]):
                if key == "training":
                    continue
                changed.append(f"{name}.{key}" if name else key)
                if key in before:
                    now[key] = before[key]
                else:
                    del now[key]
            for key in before.keys() - now.keys():
                now[key] = before[key]


_INTERNAL: Final = frozenset(nn.Module().__dict__)
"""Attributes of every module, which torch keeps: parameters, buffers, modules, hooks."""


def _containers(module: nn.Module) -> dict[str, Any]:
    """Shallow copies of the lists, mappings and sets that a module keeps."""
    return {
        key: value.copy()
        for key, value in module.__dict__.items()
        if type(value) in (list, dict, set) and key not in _INTERNAL
    }


def _same(one: Any, two: Any) -> bool:
    """Whether two containers of a kind hold the same objects."""
    if isinstance(one, set):
        return bool(one == two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(one[key] is two[key] for key in one)
    return len(one) == len(two) and all(a is b for a, b in zip(one, two, strict=True))


def _fill(container: Any, content: Any) -> None:
    """Put a content back in place: others may hold the container too."""
    container.clear()
    (container.extend if isinstance(container, list) else container.update)(content)


@dataclass(eq=False)
class Tensors:
    """Note a model's parameters and buffers as they are now, to tell later which of them changed.

    Attributes:
        model: whose.
    """

    model: nn.Module
    _slots: list[tuple[str, dict[str, Any], str, Tensor, int, int, Tensor]] = field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        for prefix, module in self.model.named_modules():
            for store in (module._parameters, module._buffers):
                for key, tensor in store.items():
                    if tensor is None:
                        continue
                    name = f"{prefix}.{key}" if prefix else key
                    seen = tensor.data_ptr(), tensor._version, fingerprint(tensor)
                    self._slots.append((name, store, key, tensor, *seen))

    def changed(self) -> str | None:
        """Return the name of the first that was replaced or written to, None if there is none.

        A buffer that a forward pass wrote to, or a parameter that a step away from here and back
        (a difference of gradients, SAM's ascent) moved, has not changed once it was put back.
        """
        for name, store, key, tensor, pointer, version, mark in self._slots:
            now = store.get(key)
            if now is None or now is not tensor or now.data_ptr() != pointer:
                return name
            if now._version != version and not torch.equal(mark, fingerprint(now)):
                return name
        return None


def fingerprint(tensor: Tensor) -> Tensor:
    """Return Σ_i (2i + 1)·bits_i modulo 2⁶⁴, int64, shape (): another if one entry changes."""
    flat = tensor.detach().contiguous().view(-1)
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32}.get(flat.itemsize, torch.int64)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    first = 1
    for part in flat.view(words).split(1 << 20):  # little memory beside the weights
        odd = torch.arange(first, first + 2 * len(part), 2, device=tensor.device)
        total += (odd * part).sum()
        first += 2 * len(part)
    return total


_FLOAT32_USERS = (
    *(("cuda", user) for user in ("matmul", "conv", "rnn")),
    *(("mkldnn", user) for user in ("matmul", "conv", "rnn")),
)
"""What has a float32 precision of its own; `mkldnn` may take bfloat16 for it on a CPU."""


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Let devices round the factors of float32 products to TF32's 10 bits, or not.

    torch has two interfaces to this and refuses to read the older one, also inside a product, where
    they disagree. So both are set, and both are put back as they were.
    """
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    get, put = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    before = [(user, get(*user)) for user in _FLOAT32_USERS]
    # Where the older one cannot be read, it is what the newer one is not.
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = "highest" if before[0][1] == "tf32" else "high"
    try:
        older_cudnn = cudnn.allow_tf32
    except RuntimeError:
        older_cudnn = before[1][1] != "tf32"
    try:
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        cuda.allow_tf32 = cudnn.allow_tf32 = allowed
        for user in _FLOAT32_USERS:
            put(*user, "tf32" if allowed and user[0] == "cuda" else "ieee")
        yield
    finally:
        torch.set_float32_matmul_precision(older)
        cudnn.allow_tf32 = older_cudnn
        for user, precision in before:
            put(*user, precision)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Let float32 mean float32: no TF32, no autocast; attention in its twice differentiable form.

    Without gradients torch runs a TransformerEncoder on a path of its own, which is another
    function at padded positions: off.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            _as_written(),
            tf32(allowed=False),
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast("cuda", enabled=False),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the original of what `torch.compile`, DistributedDataParallel or DataParallel wraps.

    Compiled code has one derivative, and DDP's forward pass waits for all ranks, to send buffers.
    """
    while isinstance(original := _wrapped(model), nn.Module):
        model = original
    return model


def _wrapped(model: nn.Module) -> Any:
    wraps = isinstance(model, DistributedDataParallel | nn.DataParallel)
    return model.module if wraps else getattr(model, "_orig_mod", None)


@contextmanager
def _as_written() -> Iterator[None]:
    """Run compiled modules and functions as they were written, where there can be any."""
    if "torch._dynamo" not in sys.modules:  # importing it takes seconds
        yield
        return
    # A recording refuses what was compiled, also where it runs as written, unless told otherwise.
    recordable = torch._dynamo.config.patch(error_on_nested_fx_trace=False)
    with torch.compiler.set_stance("force_eager"), recordable:
        yield


def refuse_training_mode(model: nn.Module) -> None:
    """Refuse layers whose output is random or depends on the batch while in train mode.

    Raises:
        UsageError: called under `torch.inference_mode()`, where nothing has a gradient.
        OperatorError: names the layer, why it changes the matrix, and what to do.
    """
    if torch.is_inference_mode_enabled():
        raise UsageError(
            "curvature needs gradients, and this is called under torch.inference_mode(): call it "
            "outside of that block"
        )
    for name, module in model.named_modules():
        if not module.training:
            continue
        label = f"{name or 'model'} ({type(module).__name__})"
        if isinstance(module, _RANDOM_IN_TRAINING) and getattr(module, "p", 1.0) > 0:
            raise OperatorError(
                f"{label} is in train mode: every product would see another random mask, so there "
                "is no one Hessian; call model.eval() first"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise OperatorError(
                f"{label} is in train mode: the loss would depend on how samples are split into "
                "batches; call model.eval() first"
            )
        if isinstance(module, nn.MultiheadAttention) and module.dropout > 0:
            raise OperatorError(
                f"{label} is in train mode with dropout={module.dropout}; call model.eval() first"
            )
