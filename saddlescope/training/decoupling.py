"""A new classifier on a trained network: the rows cRT, LWS and tau-norm of Table 2.

Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis, "Decoupling representation and classifier for
long-tailed recognition" (ICLR 2020), section 4. Everything but the last layer keeps its weights and
its BatchNorm statistics.

- crt: the classifier is drawn anew and trained with class-balanced sampling.
- lws: each row of the classifier gets a factor of its own, and the factors alone are trained so.
- tau-norm: each row is divided by its length to the power tau, the bias is dropped; nothing is
  trained.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from saddlescope.errors import DataError, UsageError
from saddlescope.models import ScaledClassifier
from saddlescope.runs import CLASSIFIERS, RunFolder
from saddlescope.training.checkpoints import (
    load_checkpoint,
    load_weights,
    refuse_other_than_tensors,
    state_dict_of,
    weights_digest,
)
from saddlescope.training.recipe import DecouplingSection, Recipe, parse_recipe
from saddlescope.training.recipe_files import apply_override

EPOCHS = 10
"""How long crt and lws train, as in their paper, where nobody says."""

_NOT_OF_THE_FIRST: Final = {
    "crt": ("fc.weight", "fc.bias"),
    "lws": ("fc.factors",),
    "tau-norm": (),
}
"""What a second stage has drawn or set itself, by its key."""

TAU: Final = 0.7
"""τ where nobody says; its authors choose it on a validation set."""


def second_stage(
    source: Path, classifier: str, *, tau: float = TAU, overrides: Iterable[str] = ()
) -> tuple[Recipe, dict[str, Tensor]]:
    """Return the recipe of a second stage, and the weights of the first that it starts from.

    Args:
        source: a run folder, whose last checkpoint is taken, or a checkpoint in one.
        classifier: a key of `CLASSIFIERS`.
        tau: τ of tau-norm.
        overrides: as of `load_recipe`.

    Raises:
        DataError: no run or no checkpoint there.
        UsageError: an unknown kind, an override that cannot be meant, or a network whose last layer
            has been replaced or has no lengths to change.
    """
    if classifier not in CLASSIFIERS:
        raise UsageError(f"--classifier {classifier}: choose from {', '.join(CLASSIFIERS)}")
    if not source.exists():
        raise DataError(f"--from {source}: no such run folder or checkpoint")
    folder = RunFolder(source if source.is_dir() else source.absolute().parent.parent)
    checkpoint = folder.checkpoint("last") if source.is_dir() else source
    trained = parse_recipe(folder.recipe(), origin=str(folder.recipe_file))
    start = state_dict_of(load_checkpoint(checkpoint))
    refuse_other_than_tensors(start, origin=str(checkpoint))
    content = _second_content(trained, classifier, digest=weights_digest(start), tau=tau)
    for override in overrides:
        apply_override(content, override)
    return parse_recipe(content, origin=f"second stage of {folder.path}"), start


def _second_content(trained: Recipe, classifier: str, *, digest: str, tau: float) -> dict[str, Any]:
    if trained.decoupling is not None:
        raise UsageError(
            f"--from: its classifier is {trained.decoupling.classifier} already; take the run it "
            "was made from"
        )
    if trained.model.classifier != "linear":
        raise UsageError(f"--classifier {classifier} needs a linear last layer, not cosines")
    content = trained.model_dump(exclude_none=True)
    content["name"] = f"{trained.name}-{trained.method.key}-{classifier}"
    content["decoupling"] = {
        "classifier": classifier,
        "first": trained.method.key,
        "source": digest,
    }
    if classifier == "tau-norm":
        content["decoupling"]["tau"] = tau
    content["method"]["name"] = "sgd"
    content["method"].pop("first_stage", None)
    content["training"] |= {"epochs": 1 if classifier == "tau-norm" else EPOCHS}
    content["training"] |= {"checkpoint_every": 0, "norms_every": 0, "losses_every": 0}
    content["loss"].pop("reweight_from", None)
    return content


def refuse_no_first_stage(
    second: DecouplingSection, folder: RunFolder, start: Mapping[str, Tensor] | None, *, force: bool
) -> None:
    """Refuse a second stage whose network would be a random one, or another run's.

    Args:
        second: of the recipe.
        folder: of the second stage's run.
        start: weights of the first stage, where they were handed over.
        force: whether what is in the folder will be removed.

    Raises:
        UsageError: no weights, neither handed over nor in the run's own checkpoint; or others than
            the recipe names.
    """
    there = folder.checkpoint("last").is_file() and not force
    if start is None and not there:
        raise UsageError(
            f"{folder.path}: a second stage needs the weights of the first, which are not in its "
            f"recipe: saddlescope train --from RUN --classifier {second.classifier} -o FOLDER "
            "(with --force where a run is there)"
        )
    if start is not None and not there and weights_digest(start) != second.source:
        raise UsageError("the weights of the first stage are not those that the recipe names")


def prepare_second_stage(model: nn.Module, recipe: Recipe, start: dict[str, Tensor]) -> None:
    """Load the trained weights and leave to training only what the second stage changes, in place.

    Args:
        model: the recipe's own, on the CPU; its classifier is as the recipe's seed draws it.
        recipe: of the second stage.
        start: the trained network's state.

    Raises:
        DataError: it is another network's; names what is missing, unknown or of another shape.
    """
    assert recipe.decoupling is not None
    kind, drawn = recipe.decoupling.classifier, model.state_dict()
    own = [key for key in drawn if key in _NOT_OF_THE_FIRST[kind]]
    complete = dict(start) | {key: drawn[key] for key in own}
    load_weights(model, complete, origin="--from: the weights of the first stage")
    classifier = model.get_submodule("fc")
    if kind == "tau-norm":
        assert isinstance(classifier, nn.Linear)
        assert recipe.decoupling.tau is not None
        tau_normalise(classifier, recipe.decoupling.tau)


def freeze_first_stage(model: nn.Module, recipe: Recipe) -> None:
    """Let only the parameters of the second stage be trained, in place."""
    assert recipe.decoupling is not None
    classifier = model.get_submodule("fc")
    model.requires_grad_(False)
    if isinstance(classifier, ScaledClassifier):
        classifier.factors.requires_grad_(True)
    else:
        classifier.requires_grad_(True)


@torch.no_grad()
def tau_normalise(classifier: nn.Linear, tau: float) -> None:
    """w_c ← w_c/‖w_c‖^τ and b ← 0, in place."""
    lengths = classifier.weight.norm(dim=1, keepdim=True)
    classifier.weight /= lengths.clamp(min=torch.finfo(lengths.dtype).tiny) ** tau
    if classifier.bias is not None:
        classifier.bias.zero_()


def class_balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """As many positions as there are samples: a class at random, then one of its samples.

    Args:
        labels: shape (N,), on the CPU.
        generator: on the CPU.

    Returns:
        Positions with repetition, shape (N,), int64.
    """
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    begins = counts.cumsum(0) - counts
    classes = torch.randint(len(counts), (len(labels),), generator=generator)
    within = (
        torch.rand(len(labels), generator=generator, dtype=torch.float64) * counts[classes]
    ).long()
    return by_class[begins[classes] + within]
