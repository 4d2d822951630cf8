"""Stages c and d of a visit: products and tables, alone and beside other tools."""

import statistics
import time
from contextlib import nullcontext
from unittest.mock import patch

import torch

from benchmarks.calls import DeviceCalls
from benchmarks.clock import seconds_now
from benchmarks.compare import TOOLS, Cases, Plan, Record, carry_out, installed
from saddlescope.curvature import HessianOperator, Programs, class_spectra
from saddlescope.curvature.krylov.lanczos import Lanczos, random_start
from saddlescope.curvature.objective.state import tf32
from saddlescope.curvature.products import strategy as strategies
from saddlescope.curvature.products.replay import Replayed
from saddlescope.measurement import run_target
from saddlescope.runs import RunFolder

WAYS = ("replayed", "traced", "double-backward")
"""Ways to a product, the best first; without CUDA the first two are one."""


def products(stage):
    """Every way on every case: error against float64, seconds, launches and waits."""
    cases = Cases(device=stage.options.device)
    names = [f"resnet32-class-{c}" for c in (99, 80, 40, 0)] + ["resnet34-class-80"]
    if stage.options.rehearse:
        names = ["mlp"]
    traced = Programs("traced")  # one recording a network, whatever the number of samples
    for name in names:
        for way in WAYS:
            stage.unit(f"{name}/{way}", lambda n=name, w=way: _product(cases, n, w, traced))


def _product(cases, name, way, traced):
    problem, device = cases.problem(name), cases.device
    traced._replays = way == "replayed"
    programs = Programs("double-backward") if way == "double-backward" else traced

    def built(one, **options):
        return HessianOperator(one.model, one.criterion, one.batches(), **options)

    operator = built(problem, programs=programs)
    probe = random_start(problem.size, seed=0).to(device)
    truth = built(problem.double()).matvec(probe)
    vector = probe.to(problem.dtype)
    product = operator.matvec(vector)
    error = float((product.double() - truth).norm() / truth.norm())
    seconds = []
    for _ in range(5 if device.type == "cpu" else 25):
        began = seconds_now(device)
        operator.matvec(vector)
        seconds.append(seconds_now(device) - began)
    with DeviceCalls(device.type) as calls:
        operator.matvec(vector)
    process = Lanczos(operator, random_start(problem.size, seed=1), capacity=8)
    process.step()
    with DeviceCalls(device.type) as step:
        process.step()
    found = {
        "samples": len(problem.targets), "traced": programs.traced, "error": error,
        "seconds": statistics.median(seconds[2:]), "operations": calls.launches,
        "waits": len(calls.waits) if device.type == "cuda" else None,
        "waits_of_a_step": len(step.waits) if device.type == "cuda" else None,
        "recordings": _recordings(operator),
    }  # fmt: skip
    if device.type == "cuda":
        found["kernels"] = _kernels(lambda: operator.matvec(vector))
    if not error < 1e-3:
        raise AssertionError(f"relative error {error:.2g} against float64")
    return found


def _recordings(operator):
    """Bytes that this job's recordings keep; 0 where nothing was recorded."""
    kept = operator.products._kept
    made = {id(one._recordings): one._recordings for one in kept if isinstance(one, Replayed)}
    return sum(recordings.nbytes for recordings in made.values())


def _kernels(work):
    """Kernels that a piece of work runs, and the share of its time in which none does."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    kernels = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.device_time for event in kernels) * 1e-6
    return {"number": len(kernels), "seconds": busy, "idle_share": max(0.0, 1.0 - busy / seconds)}


def tables(stage):
    """The table of classes by tool, and of each network given with `--run` by way of product."""
    options = stage.options
    runs = options.run or (None,)
    for run in runs:
        for way in WAYS:
            label = run.name if run else "stand-in"
            stage.unit(f"classes/{label}/{way}", lambda run=run, way=way: _classes(stage, run, way))
    networks = [
        run for run in options.run if RunFolder(run).recipe()["model"]["name"] == "resnet32"
    ]
    cases = Cases(networks[:1], data_root=options.data_root, device=options.device)
    ours, peers = TOOLS["saddlescope"], [t for k, t in TOOLS.items() if not k.startswith("saddle")]
    there = [tool for tool in peers if installed(tool) and tool.gives_both]
    if options.rehearse:
        plan = Plan(cases, ["mlp"], [ours, *there[:1]], ("ends",), seeds=1, repeats=1)
    else:
        plan = Plan(cases, [], [ours, *there], ("table",), every=True)
    record = Record(options.output / "d-tools.json", device=options.device)
    left = carry_out(
        plan, record, time_limit=max(0.0, stage.left - 5.0),
        report=lambda key, share: print(f"{share:.0%} {key}", flush=True),
    )  # fmt: skip
    if left:
        raise KeyboardInterrupt
    stage.put("tools", {"compared": [ours.key, *(tool.key for tool in there)]})


def _classes(stage, run, way):
    """All classes of a network in one way: seconds, and the verdicts."""
    options, device = stage.options, torch.device(stage.options.device)
    if run is not None:
        target = run_target(RunFolder(run), device=device, data_root=options.data_root)
        model, criterion, samples = target.model, target.criterion, target.samples
        chosen = sorted(set(samples.targets.tolist()))
    else:
        cases = Cases(device=device)
        numbers = (99, 80, 40) if not options.rehearse else ()
        problems = [cases.problem(f"resnet32-class-{c}") for c in numbers] or [cases.problem("mlp")]
        model, criterion = problems[0].model, problems[0].criterion
        inputs = torch.cat([problem.inputs for problem in problems])
        targets = torch.cat([problem.targets for problem in problems])
        samples, chosen = (inputs, targets), sorted(set(targets.tolist()))
    strategy = "double-backward" if way == "double-backward" else "traced"
    replays = nullcontext() if way == "replayed" else patch.object(
        strategies, "replayed_size", return_value=None
    )  # fmt: skip
    with replays:
        return _table(model, criterion, samples, chosen, strategy, device)


def _table(model, criterion, samples, chosen, strategy, device):
    began = seconds_now(device)
    with tf32(allowed=False):
        frame = class_spectra(
            model, criterion, samples, classes=chosen, groups=(), strategy=strategy, batch_size=2048
        )
    return {
        "seconds": seconds_now(device) - began, "rows": len(frame),
        "products": int(frame["matvecs"].sum()), "converged": int(frame["converged"].sum()),
        "verdicts": frame["verdict"].value_counts().to_dict(),
        "lambda_max": frame["lambda_max"].round(4).tolist(),
        "lambda_min": frame["lambda_min"].round(4).tolist(),
    }  # fmt: skip
