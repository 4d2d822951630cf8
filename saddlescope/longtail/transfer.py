"""From the host to the device without waiting for it."""

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor on the device; the host does not wait for what the device is doing.

    A copy to CUDA from ordinary memory would: it waits for all work that was given out before.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
