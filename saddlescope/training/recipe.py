"""Recipes: everything that decides a run's numbers, in one TOML file, read strictly.

A key that does not exist is refused with the nearest one that does. `extends` names a recipe
to start from: a path beside the file, or `package:NAME` for one that ships with saddlescope.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from saddlescope.errors import UsageError, nearest
from saddlescope.longtail import Thresholds, check_options
from saddlescope.models import MODELS
from saddlescope.runs import LOSSES, METHODS, ONE_STAGE, RadiusOptions, in_two_stages
from saddlescope.sharpness import Radii, first_epoch, method_radii
from saddlescope.training.recipe_files import apply_override, read_recipe


class _Section(BaseModel):
    # Strictly: `true` is no number of epochs, and "2" none either.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


_LONGEST_MISTAKE = 400
"""Characters of what is said of a value or key, which may be of any length."""

_LARGEST_STEP = 1e30
"""Of a step size, a radius or a factor: with more float32 overflows, whatever the gradient."""

_LARGEST_COUNT = 10**9
"""Of epochs, samples and pixels: no run has more, and not every library takes more."""

_LARGEST_SIDE = 8192
"""Pixels: one image of that size takes 800 MB as the network sees it."""

if TYPE_CHECKING:
    MethodName = str
    OneStageName = str
    LossName = str
    ModelName = str
else:  # taken from the records: a new method, loss or network is a word of recipes at once
    MethodName = Literal[tuple(METHODS)]
    OneStageName = Literal[ONE_STAGE]
    LossName = Literal[tuple(LOSSES)]
    ModelName = Literal[tuple(MODELS)]

Count = Annotated[int, Field(ge=1, le=_LARGEST_COUNT)]
CountOrNone = Annotated[int, Field(ge=0, le=_LARGEST_COUNT)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Radius = Annotated[float, Field(ge=0, le=_LARGEST_STEP)]


class DataSection(_Section):
    """`[data]`: which samples. None for a threshold takes the data set's own default.

    `imbalance_factor` None is the set's usual one, of a set that is long-tailed as it is every
    image there is. The last four keys are of sets of image files: see `FileOptions`.
    """

    name: str
    imbalance_factor: float | None = Field(default=None, ge=1)
    profile: Literal["exp", "step"] = "exp"
    subset: Literal["first", "shuffled"] = "first"
    subset_seed: int = Field(default=0, ge=0, lt=1 << 32)
    tail_threshold: int | None = Field(default=None, ge=-_LARGEST_COUNT, le=_LARGEST_COUNT)
    many_above: int | None = Field(default=None, ge=-_LARGEST_COUNT, le=_LARGEST_COUNT)
    few_below: int | None = Field(default=None, ge=-_LARGEST_COUNT, le=_LARGEST_COUNT)
    augment: bool = True
    train_list: str | None = None
    test_list: str | None = None
    image_size: int | None = Field(default=None, ge=8, le=_LARGEST_SIDE)
    shrink_to: int | None = Field(default=None, ge=8, le=_LARGEST_SIDE)

    def thresholds(self, usual: Thresholds) -> Thresholds:
        """Return the usual thresholds with those that are given in their place."""
        given = self.model_dump(include={field.name for field in fields(Thresholds)})
        return replace(usual, **{key: value for key, value in given.items() if value is not None})


class ModelSection(_Section):
    """`[model]`: which network, its last layer, and its normalisation."""

    name: ModelName
    classifier: Literal["linear", "cosine"] = "linear"
    norm: Literal["batch", "group"] = "batch"


class LossSection(_Section):
    """`[loss]`: which loss, with its own options (see `saddlescope.longtail.make_loss`).

    `reweight_from` defers class-balanced weights (DRW) to the epochs from this share of the run on;
    None never weighs.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)
    name: LossName = "ce"
    reweight_from: float | None = Field(default=None, ge=0, le=1)
    reweight_beta: float = Field(default=0.9999, ge=0, lt=1)

    @model_validator(mode="after")
    def _options_of_this_loss(self) -> Self:
        try:
            check_options(self.name, self.options())
        except UsageError as error:
            raise PydanticCustomError("loss", "{reason}", {"reason": str(error)}) from None
        return self

    def weights_beta(self, epoch: int, epochs: int) -> float | None:
        """β of the class weights in an epoch; None while there are none."""
        if self.reweight_from is None or epoch < first_epoch(self.reweight_from, epochs):
            return None
        return self.reweight_beta

    def options(self) -> dict[str, Any]:
        """Return what stands beside the name."""
        return dict(self.model_extra or {})


class MethodSection(_Section):
    """`[method]`: which method, and the radii of all of them.

    `first_stage` names another method for the epochs before γT, as SSE-SAM is SAM (ext.) first and
    ImbSAM afterwards.
    """

    name: MethodName = "sgd"
    first_stage: OneStageName | None = None
    rho: Radius = RadiusOptions.rho
    rho_head: Radius = RadiusOptions.rho_head
    rho_tail: Radius = RadiusOptions.rho_tail
    gamma: float = Field(default=RadiusOptions.gamma, ge=0, le=1)
    group_reduction: Literal["batch", "group", "batch-tail-x2"] = "batch"
    bn_statistics: Literal["clean", "every-pass"] = "every-pass"

    @property
    def key(self) -> str:
        """The word of tables and folder names, such as "sgd-then-imbsam"."""
        return f"{self.first_stage}-then-{self.name}" if self.first_stage else self.name

    @model_validator(mode="after")
    def _two_different_stages(self) -> Self:
        if self.first_stage is None:
            return self
        if self.name not in ONE_STAGE or self.name == self.first_stage:
            raise PydanticCustomError("stages", "expected two different methods of one stage each")
        if both := in_two_stages(self.first_stage, self.name):
            reason = f"that is {METHODS[both].label}: write name = {both!r}"
            raise PydanticCustomError("stages", "{reason}", {"reason": reason})
        return self

    @property
    def options(self) -> RadiusOptions:
        """The numbers that the radii are taken from."""
        return RadiusOptions(self.rho, self.rho_head, self.rho_tail, self.gamma)

    def radii(self, epochs: int) -> Radii:
        """Resolve the method's radii by epoch."""
        return method_radii(
            self.name, epochs=epochs, options=self.options, first_stage=self.first_stage
        )


class OptimizerSection(_Section):
    """`[optimizer]`: the base SGD. `eta` is the step size at the start of the schedule.

    `cosine` reaches 0 after the last epoch; `cosine-released` is stepped before each epoch, as
    the paper's code does, so that its last epoch has step size 0. `clip` is the L2 norm that the
    final gradient, without weight decay, is scaled down to; None leaves it.
    """

    eta: float = Field(default=0.01, gt=0, le=_LARGEST_STEP)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: Radius = 1e-3
    batch_size: Count = 64
    schedule: Literal["cosine", "cosine-released", "constant"] = "cosine"
    clip: float | None = Field(default=None, gt=0, le=_LARGEST_STEP)

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise PydanticCustomError("nesterov", "nesterov = true needs momentum > 0", {})
        return self


class TrainingSection(_Section):
    """`[training]`: how long, what is kept, and how it is computed.

    0 for `checkpoint_every` (epochs), `norms_every` (steps) and `losses_every` (epochs) keeps none.
    `precision = "bf16"` is autocast of the forward passes, "fp16" that with a GradScaler, "tf32"
    rounds the factors of products to 10 bits where CUDA can. `accumulate` is the number of forward
    passes a rank's batch is split into. `captured` replays a step's kernels as one CUDA graph.
    `deterministic` takes cuDNN's kernels that add in one order. `sync_bn` lets BatchNorm see the
    whole batch where CUDA ranks share it.
    """

    epochs: Count
    seed: Seed = 0
    evaluate_every: Count = 1
    checkpoint_every: CountOrNone = 0
    norms_every: CountOrNone = 0
    losses_every: CountOrNone = 0
    precision: Literal["float32", "tf32", "bf16", "fp16"] = "float32"
    accumulate: Count = 1
    channels_last: bool = False
    compile: bool = False
    captured: bool = False
    deterministic: bool = False
    sync_bn: bool = True


class DecouplingSection(_Section):
    """`[decoupling]`: a new classifier on a trained network (see the module `decoupling`).

    `source` identifies the trained weights, `first` is the method they were trained with.
    """

    classifier: Literal["crt", "lws", "tau-norm"]
    first: str
    source: str
    tau: float | None = Field(default=None, ge=0, le=_LARGEST_STEP)


class Recipe(_Section):
    """One training run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: DataSection
    model: ModelSection
    training: TrainingSection
    loss: LossSection = LossSection()
    method: MethodSection = MethodSection()
    optimizer: OptimizerSection = OptimizerSection()
    decoupling: DecouplingSection | None = None

    def to_toml(self) -> str:
        """Return the recipe with every default written out, except what is None."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    @property
    def trains(self) -> bool:
        """Tell whether a run takes steps at all; tau-norm does not."""
        return self.decoupling is None or self.decoupling.classifier != "tau-norm"

    @property
    def method_key(self) -> str:
        """The `method` column of every table: of a second stage both, such as "sam+crt"."""
        if self.decoupling is None:
            return self.method.key
        return f"{self.decoupling.first}+{self.decoupling.classifier}"

    @property
    def run_name(self) -> str:
        """Default name of the run folder."""
        if self.decoupling is not None:  # the method of its first stage is in the name
            return f"{self.name}-seed{self.training.seed}"
        return f"{self.name}-{self.method.key}-seed{self.training.seed}"


def load_recipe(source: str | Path, *, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file and apply overrides.

    Args:
        source: path of a TOML file, or `package:NAME`.
        overrides: "section.key=value" each, the value in TOML (a bare word is taken as text).

    Raises:
        UsageError: no such file, not TOML, unknown key, or a value that cannot be meant.
    """
    content = read_recipe(str(source))
    if "sweep" in content:
        raise UsageError(f"{source}: describes several runs; read it with load_plan")
    for override in overrides:
        apply_override(content, override)
    return parse_recipe(content, origin=str(source))


def packaged_recipe(name: str, *, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe that ships with saddlescope."""
    return load_recipe(f"package:{name}", overrides=overrides)


def parse_recipe(content: Mapping[str, Any], *, origin: str) -> Recipe:
    """Check plain data against the schema.

    Raises:
        UsageError: one line a mistake is, the first of them; it names the key.
    """
    try:
        return Recipe.model_validate(content)
    except RecursionError:
        raise UsageError(f"{origin}: a value is nested too deep") from None
    except ValidationError as error:
        text = _first_mistake(error)
        shown = text if len(text) <= _LONGEST_MISTAKE else text[:_LONGEST_MISTAKE] + "…"
        raise UsageError(f"{origin}: {shown}") from None


def _first_mistake(error: ValidationError) -> str:
    mistake = error.errors()[0]
    location = [str(part) for part in mistake["loc"]]
    path = ".".join(location)
    if mistake["type"] == "extra_forbidden":
        known = _keys(location[:-1])
        near = nearest(location[-1], known)
        hint = f"did you mean {near!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {path!r}; {hint}"
    if mistake["type"] == "missing":
        return f"key {path!r} is missing"
    value, reason = repr(mistake["input"]), mistake["msg"][0].lower() + mistake["msg"][1:]
    return f"{path} = {value if len(value) <= 200 else value[:200] + '…'}: {reason}"


def _keys(path: list[str]) -> list[str]:
    model: Any = Recipe
    for section in path:
        found = model.model_fields[section].annotation
        model = next((a for a in get_args(found) if a is not type(None)), found)
    return list(model.model_fields)


def first_difference(there: Recipe, here: Recipe) -> str:
    """Return the first key in which two recipes differ, with both values."""
    old, new = there.model_dump(), here.model_dump()
    for section in old:
        if old[section] != new[section]:
            if not (isinstance(old[section], dict) and isinstance(new[section], dict)):
                return f"{section} = {old[section]!r}, not {new[section]!r}"
            for key in {**old[section], **new[section]}:
                one, two = old[section].get(key), new[section].get(key)
                if one != two:
                    return f"{section}.{key} = {one!r}, not {two!r}"
    return "no difference"
