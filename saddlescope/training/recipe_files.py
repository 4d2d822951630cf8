"""Recipe files: TOML, what they extend, and the keys that are overridden, as plain data."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from saddlescope.errors import DataError, UsageError
from saddlescope.runs import parse_toml, read_text

_LARGEST: Final = 1 << 20
"""Bytes of a recipe file."""

_LONGEST: Final = 250
"""Characters of the recipe that is extended: what a file's name may have."""

_DEEPEST: Final = 20
"""Recipes that extend one another, and sections in one another."""


def read_recipe(source: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a recipe file with all that it extends, as plain data, not checked yet.

    Raises:
        UsageError: no such file, not TOML, or recipes that extend each other in a circle.
    """
    if source in seen:
        raise UsageError(f"recipes extend each other in a circle: {' -> '.join([*seen, source])}")
    if source.startswith("package:"):
        file = resources.files(__package__) / "recipes" / f"{source.removeprefix('package:')}.toml"
        shown = sorted(p.name.removesuffix(".toml") for p in _packaged().iterdir())
        if not file.is_file():
            raise UsageError(f"no recipe {source!r}: packaged are {', '.join(shown)}")
        text = file.read_text(encoding="utf-8")
    else:
        try:
            text = read_text(source, limit=_LARGEST)
        except DataError as error:
            raise UsageError(f"recipe {error}") from None
    content = _toml(text, f"recipe {source}: not valid TOML")
    parent = content.pop("extends", None)
    if parent is None:
        return content
    if not isinstance(parent, str):
        raise UsageError(f"recipe {source}: extends = {str(parent)[:80]}: expected a path")
    if len(parent) > _LONGEST:
        raise UsageError(f"recipe {source}: extends = {parent[:80]}…: {len(parent)} characters")
    if len(seen) > _DEEPEST:
        raise UsageError(f"recipe {seen[0]}: more than {_DEEPEST} recipes extend one another")
    if not str(parent).startswith("package:"):
        parent = str(Path(source).parent / str(parent))
    return _merge(read_recipe(str(parent), (*seen, source)), content)


def _toml(text: str, failed: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except ValueError as error:  # also digits or levels without end
        raise UsageError(f"{failed}: {error}") from None


def _packaged() -> Any:
    return resources.files(__package__) / "recipes"


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def apply_override(content: dict[str, Any], override: str) -> str:
    """Apply "section.key=value" in place and return the key.

    Raises:
        UsageError: not of that form, or a section that is not one.
    """
    path, separator, text = override.partition("=")
    if not separator or not path.strip():
        raise UsageError(f"override {override!r}: expected section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    except (ValueError, RecursionError) as error:  # digits or levels without end
        raise UsageError(f"override {path.strip()}: not a value: {error}") from None
    set_key(content, path.strip(), value)
    return path.strip()


def set_key(content: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted key in place.

    Raises:
        UsageError: a part of the path is no section.
    """
    *sections, key = path.split(".")
    if len(sections) > _DEEPEST:
        raise UsageError(f"{path[:80]}…: no key lies that deep")
    place = content
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise UsageError(f"{path}: {section} is not a section")
    place[key] = value
