"""How much memory may be used: a share of what is free right now."""

import os

import torch


def available_bytes(device: torch.device) -> int:
    """Free memory of the device, in bytes; of a CPU, what can be had without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as handle:
            for line in handle:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def default_budget(device: torch.device) -> int:
    """Bytes for retained graphs: 40 % of what is free, the rest left for basis and work."""
    return int(0.4 * available_bytes(device))
