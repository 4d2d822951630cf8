"""Recipes that describe many runs, such as a whole table of the paper.

    extends = "cifar100-resnet32.toml"
    name = "table1-cifar100"

    [[sweep]]                       # every combination of the lists
    "method.name" = ["sgd", "sam"]
    "training.seed" = [0, 1, 2]

Several `[[sweep]]` blocks are several such products, one after the other.
"""

import copy
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saddlescope.errors import UsageError, nearest
from saddlescope.training.recipe import Recipe, parse_recipe
from saddlescope.training.recipe_files import apply_override, read_recipe, set_key

_IN_EVERY_NAME = ("method.name", "method.first_stage", "training.seed")
"""Keys whose values `Recipe.run_name` has anyway."""

MOST_RUNS = 10_000
"""Runs that a recipe may describe."""

_SHORT = {"imbalance_factor": "if"}


@dataclass(frozen=True)
class Plan:
    """The runs that a recipe file describes.

    Attributes:
        name: of the recipe.
        runs: one recipe a run, with names of their own.
        swept: whether the file has `[[sweep]]` blocks.
    """

    name: str
    runs: tuple[Recipe, ...]
    swept: bool

    def only(self, name: str) -> Recipe:
        """Return the run of this name.

        Raises:
            UsageError: there is none.
        """
        names = [recipe.run_name for recipe in self.runs]
        if name not in names:
            near = nearest(name, names)
            hint = f"did you mean {near}?" if near else f"it has {', '.join(names[:5])} …"
            raise UsageError(f"recipe {self.name} has no run {name!r}; {hint}")
        return self.runs[names.index(name)]

    def shard(self, text: str) -> tuple[Recipe, ...]:
        """Every N-th run from the K-th on, for "K/N".

        Raises:
            UsageError: not such a text.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard {text}: expected K/N with K from 1 to N, such as 1/4")
        return self.runs[int(match[1]) - 1 :: int(match[2])]


def load_plan(source: str | Path, *, overrides: Iterable[str] = ()) -> Plan:
    """Read a recipe file with all the runs it describes.

    Args:
        source: path of a TOML file, or `package:NAME`.
        overrides: as of `load_recipe`, of all runs.

    Raises:
        UsageError: as `load_recipe`; a sweep that is not keys with lists, an override of a swept
            key, or two runs of one name.
    """
    content = read_recipe(str(source))
    blocks = content.pop("sweep", None)
    overridden = [apply_override(content, override) for override in overrides]
    if blocks is None:
        recipe = parse_recipe(content, origin=str(source))
        return Plan(recipe.name, (recipe,), swept=False)
    blocks = [blocks] if isinstance(blocks, Mapping) else blocks
    if not isinstance(blocks, list) or not blocks:
        raise UsageError(f"{source}: sweep: expected [[sweep]] blocks of keys with lists")
    runs: list[Recipe] = []
    count = 0
    for block in blocks:
        lists = _lists(block, origin=str(source))
        for key in overridden:
            if key in lists:
                raise UsageError(
                    f"--set {key}=…: this recipe sweeps over {key}; choose a run with --only"
                )
        count += math.prod(len(values) for values in lists.values())
        if count > MOST_RUNS:
            raise UsageError(f"{source}: sweep: more than {MOST_RUNS:,} runs")
        for values in itertools.product(*lists.values()):
            point = dict(zip(lists, values, strict=True))
            runs.append(_run(content, point, origin=str(source)))
    names = Counter(recipe.run_name for recipe in runs)
    if double := next((name for name, times in names.items() if times > 1), None):
        raise UsageError(f"{source}: sweep: two runs are called {double}; sweep over it once")
    return Plan(str(content.get("name")), tuple(runs), swept=True)


def _lists(block: Any, *, origin: str) -> dict[str, list[Any]]:
    """Dotted key to values; nested tables are keys with dots."""
    found: dict[str, list[Any]] = {}

    def collect(value: Any, path: tuple[str, ...]) -> None:
        key = ".".join(path)
        if isinstance(value, Mapping):
            for name, inner in value.items():
                collect(inner, (*path, name))
        elif not isinstance(value, list) or not value or not path:
            raise UsageError(f"{origin}: sweep.{key}: expected a list of values")
        else:
            found[key] = value

    collect(block, ())
    return found


def _run(content: Mapping[str, Any], point: Mapping[str, Any], *, origin: str) -> Recipe:
    changed = copy.deepcopy(dict(content))
    labels = [str(content.get("name"))]
    for key, value in point.items():
        set_key(changed, key, value)
        if key not in _IN_EVERY_NAME:
            labels.append(_label(key, value))
    return parse_recipe(changed | {"name": "-".join(labels)}, origin=origin)


def _label(key: str, value: Any) -> str:
    if isinstance(value, str):
        text = value
    else:
        last = key.rsplit(".", 1)[-1]
        text = f"{_SHORT.get(last, last.replace('_', ''))}{value}"
    return re.sub(r"[^A-Za-z0-9._]+", "", text.removesuffix(".0"))
