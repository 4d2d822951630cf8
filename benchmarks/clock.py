"""Seconds of work: of the process where one thread computes, so that other work does not count."""

import time

import torch


def seconds_now(device: torch.device) -> float:
    """A reading of the clock, after everything the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def clock_name(device: torch.device) -> str:
    """Which clock that is, for the record."""
    one = device.type == "cpu" and torch.get_num_threads() == 1
    return "processor time of the process" if one else "wall clock"
