"""Stages e and f of a visit: Fig. 4 at the paper's settings with ResNet-32, and what steps cost."""

import statistics
import time

import torch

from benchmarks.clock import seconds_now
from benchmarks.compare.steps import random_data
from saddlescope.curvature import Programs
from saddlescope.curvature.objective.samples import usual_batch_size
from saddlescope.curvature.objective.subsets import select_subsets
from saddlescope.curvature.tables.spectra import measure_subset
from saddlescope.longtail import ImageSamples
from saddlescope.runs import RunFolder, read_rows
from saddlescope.sharpness import SharpnessAware, StepOptions
from saddlescope.training import (
    RunOptions,
    load_checkpoint,
    load_plan,
    load_section,
    parse_recipe,
    train_together,
    training,
)
from saddlescope.training.arithmetic import arithmetic
from saddlescope.training.branching import Branching, in_a_sweep, shared_epochs
from saddlescope.training.captured import CapturedSteps, base_options
from saddlescope.training.checkpoints import load_weights
from saddlescope.training.network import recipe_network
from saddlescope.training.steps import Steps

TOGETHER = ("sgd", "sam", "imbsam", "sam-ext")
"""Methods that start at once; SSE-SAM goes on from SAM (ext.)'s run."""

ALL_200, ALL_100 = 420.0, 800.0
"""Seconds: the rule, fixed before any measurement. All five methods with 200 epochs if that is
projected to take at most the first, with 100 if at most the second; otherwise SGD and SAM (ext.) →
SSE-SAM with as many epochs as fit into the first."""

SPECTRA_SECONDS = 110.0
"""What is left for the spectra when training has to stop."""

CLASSES = (0, 80)
"""Rows of the spectra beside all samples."""


def decide(seconds_an_epoch, *, two_an_epoch, sse_an_epoch, epochs=200, gamma=0.7):
    """The rule: which methods train for how many epochs.

    Args:
        seconds_an_epoch: of the four methods that train together.
        two_an_epoch: of SGD and SAM (ext.) together.
        sse_an_epoch: of SSE-SAM's second stage alone, which follows the others.
        epochs: of the paper.
        gamma: share of them before SSE-SAM's switch.

    Returns:
        Methods, epochs, and the seconds projected for all five with `epochs`.
    """
    projected = epochs * (seconds_an_epoch + (1.0 - gamma) * sse_an_epoch)
    if projected <= ALL_200:
        return {"methods": [*TOGETHER, "sse-sam"], "epochs": epochs, "projected": projected}
    if projected <= ALL_100:
        return {"methods": [*TOGETHER, "sse-sam"], "epochs": epochs // 2, "projected": projected}
    each = two_an_epoch + (1.0 - gamma) * sse_an_epoch
    fit = max(20, min(epochs, int(ALL_200 / each) // 20 * 20))
    return {"methods": ["sgd", "sam-ext", "sse-sam"], "epochs": fit, "projected": projected}


def recipes_of(options, epochs):
    """The recipes of Fig. 4 with ResNet-32, in the order in which one can go on from another."""
    changes = ["model.name=resnet32", f"training.epochs={epochs}", "training.captured=true",
               "training.checkpoint_every=20"]  # fmt: skip
    if options.rehearse:
        changes = ["model.name=resnet8", f"training.epochs={epochs}", "training.captured=true",
                   "data.name=digits", "data.imbalance_factor=100", "optimizer.batch_size=32",
                   "training.checkpoint_every=2"]  # fmt: skip
    plan = load_plan("train/fig4.toml", overrides=changes)
    by_method = {recipe.method.name: recipe for recipe in plan.runs}
    return {method: by_method[method] for method in ("sgd", "sam-ext", "sse-sam", "sam", "imbsam")}


def steps_of(recipe, data, device, *, captured=True):
    """Steps of a recipe on a network of its own."""
    model = recipe_network(recipe, num_classes=data.num_classes, in_channels=data.in_channels)
    if recipe.training.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model.to(device).train()
    radii = recipe.method.radii(recipe.training.epochs)
    options = recipe.optimizer
    optimizer = SharpnessAware(
        model.parameters(),
        torch.optim.SGD,
        radii=radii.at(0),
        step=StepOptions(model=model, bn_statistics=recipe.method.bn_statistics, clip=options.clip),
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.nesterov,
        **base_options(recipe, device),
    )
    kind = CapturedSteps if captured else Steps
    return kind(recipe, data, model, optimizer, radii)


def seconds_a_step(all_steps, device, *, count):
    """Wall seconds of a step of each of several methods at once, by turns, each on its stream."""
    streams = [torch.cuda.Stream(device) if device.type == "cuda" else None for _ in all_steps]
    turns = []
    for steps, stream in zip(all_steps, streams, strict=True):
        size = steps.recipe.optimizer.batch_size
        parts = [part for part in steps.order(0).split(size) if len(part) == size]
        with torch.cuda.stream(stream):
            turns.append((steps, stream, parts, steps.images(parts)))
    seconds = []
    most = min(len(parts) for *_, parts, _ in turns)
    for turn in range(min(count + 8, most)):
        if turn == min(8, most // 2):  # recordings are made, kernels chosen
            began = seconds_now(device)
            first = turn
        for steps, stream, parts, images in turns:
            with torch.cuda.stream(stream):
                steps.take(parts[turn], next(images))
    seconds = seconds_now(device) - began
    return seconds / (min(count + 8, most) - first)


def figure_4(stage):
    """Measure what a step costs, decide by the rule, train, and measure the spectra."""
    options, device = stage.options, torch.device(stage.options.device)
    epochs = 4 if options.rehearse else 200
    recipes = recipes_of(options, epochs)
    data = load_section(recipes["sgd"].data, root=options.data_root).to(device)
    plan = stage.unit("plan", lambda: _plan(recipes, data, device, options, epochs))
    if plan is None:
        return
    if plan["epochs"] != epochs:
        recipes = recipes_of(options, plan["epochs"])
    chosen = {method: recipes[method] for method in recipes if method in plan["methods"]}
    runs = options.output / "fig4"
    if not all(_finished(runs / recipe.run_name) for recipe in chosen.values()):
        began = time.monotonic()
        spare = SPECTRA_SECONDS if not options.rehearse else 5.0
        stop = lambda: stage.left < spare  # noqa: E731
        jobs = [
            (recipe, _job(recipe, tuple(chosen.values()), data, runs, device, stop))
            for recipe in chosen.values()
        ]
        try:
            train_together(jobs, device=device)
        finally:
            stage.put("training", {"seconds": time.monotonic() - began, **_reached(runs, chosen)})
    # One model for all runs: a traced product belongs to an object's identity.
    model = recipe_network(
        recipes["sgd"], num_classes=data.num_classes, in_channels=data.in_channels
    ).to(device).eval()  # fmt: skip
    programs = Programs("traced")
    for method, recipe in chosen.items():
        folder = RunFolder(runs / recipe.run_name)
        for label in (0, 8) if options.rehearse else ("all", *CLASSES):
            stage.unit(
                f"spectrum/{method}/{label}",
                lambda f=folder, l=label: _spectrum(f, l, model, data, programs, device),
            )


def _plan(recipes, data, device, options, epochs):
    """Seconds of a step alone and together, captured and not, and what the rule makes of them."""
    count = 4 if options.rehearse else 60
    some = TOGETHER if not options.rehearse else ("sgd", "imbsam")
    found = {"eager": {}, "captured": {}}
    with arithmetic(recipes["sgd"].training):
        for method in some:
            for way, captured in (("eager", False), ("captured", True)):
                steps = steps_of(recipes[method], data, device, captured=captured)
                found[way][method] = seconds_a_step([steps], device, count=count)
        together = [steps_of(recipes[method], data, device) for method in some]
        four = seconds_a_step(together, device, count=count)
        two = seconds_a_step(
            [steps_of(recipes[method], data, device) for method in ("sgd", "sam-ext")],
            device, count=count,
        )  # fmt: skip
    steps = len(data.train) / recipes["sgd"].optimizer.batch_size
    found |= {"together": four, "two_together": two, "steps_an_epoch": steps}
    return found | decide(
        four * steps, two_an_epoch=two * steps,
        sse_an_epoch=found["captured"]["imbsam"] * steps, epochs=epochs,
    )  # fmt: skip


def _job(recipe, recipes, data, runs, device, stop):
    """A run of the sweep, anew or gone on with; SSE-SAM waits for SAM (ext.)'s first stage."""
    folder = RunFolder(runs / recipe.run_name)
    branching = in_a_sweep(recipe, recipes, runs)
    if recipe.method.name == "sse-sam" and not folder.checkpoint("last").is_file():
        trunk = next(one for one in recipes if one.method.name == "sam-ext")
        shared = shared_epochs(recipe, trunk)
        while branching.trunk is None or branching.trunk.epochs < shared:
            if stop():
                return
            yield
            if RunFolder(runs / trunk.run_name).checkpoint(str(shared - 1)).is_file():
                branching = in_a_sweep(recipe, recipes, runs)
    if folder.exists():
        branching = Branching(keep=branching.keep)
    yield from training(
        recipe, data, folder, RunOptions(device=device, resume=folder.exists(), should_stop=stop,
        branching=branching),
    )  # fmt: skip


def _finished(path):
    folder = RunFolder(path)
    return folder.exists() and folder.run().get("state") == "finished"


def _reached(runs, chosen):
    """Epochs done by method, and the last accuracy."""
    found = {}
    for method, recipe in chosen.items():
        folder = RunFolder(runs / recipe.run_name)
        rows = read_rows(folder.metrics_file) if folder.metrics_file.is_file() else []
        measured = [row["acc_avg"] for row in rows if row["acc_avg"] is not None]
        found[method] = {"epochs": len(rows), "acc_avg": measured[-1] if measured else None}
    return {"reached": found}


_CRITERION = torch.nn.CrossEntropyLoss()


def _spectrum(folder, label, model, data, programs, device):
    """One row at a run's last checkpoint."""
    content = load_checkpoint(folder.checkpoint("last"), device=device)
    load_weights(model, content, origin=str(folder.path))
    samples = ImageSamples(data.train, data.groups)
    options = {"groups": ("all",), "classes": "none"} if label == "all" else {
        "groups": (), "classes": [label]
    }  # fmt: skip
    (subset,) = select_subsets(samples, **options)
    row = measure_subset(
        model, _CRITERION, samples, subset, programs=programs,
        batch_size=usual_batch_size(device),
    )  # fmt: skip
    return row.columns() | {"run": folder.path.name, "epochs": int(content["epoch"])}


def step_costs(stage):
    """Steps of SGD and SAM (ext.) by network, precision and layout, eager and captured."""
    options, device = stage.options, torch.device(stage.options.device)
    networks = ("resnet32", "resnet34") if not options.rehearse else ("resnet8",)
    settings = [("float32", False), ("tf32", False), ("bf16", False), ("float32", True),
                ("bf16", True)]  # fmt: skip
    if options.rehearse:
        settings = [("bf16", True)]
    data = random_data(device)
    for network in networks:
        for precision, channels_last in settings:
            for method in ("sgd", "sam-ext"):
                for captured in (False, True):
                    layout = "channels-last" if channels_last else "contiguous"
                    way = "captured" if captured else "eager"
                    stage.unit(
                        f"{network}/{precision}/{layout}/{method}/{way}",
                        lambda n=network, p=precision, c=channels_last, m=method, g=captured: _cost(
                            n, p, c, m, g, data, device
                        ),
                        needs=2.0,
                    )


def _cost(network, precision, channels_last, method, captured, data, device):
    recipe = parse_recipe(
        {"name": "steps", "data": {"name": "random", "imbalance_factor": 1.0},
         "model": {"name": network}, "method": {"name": method},
         "training": {"epochs": 1, "precision": precision, "channels_last": channels_last,
                      "captured": captured}},
        origin="visit",
    )  # fmt: skip
    with arithmetic(recipe.training):
        found = []
        for _ in range(1 if device.type == "cpu" else 3):
            steps = steps_of(recipe, data, device, captured=captured)
            count = 1 if device.type == "cpu" else 8
            found.append(seconds_a_step([steps], device, count=count))
    return {"seconds": statistics.median(found)}
