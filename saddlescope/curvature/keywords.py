"""Keywords of a public function as fields of the objects that are passed on inside."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVarTuple, cast

_Objects = TypeVarTuple("_Objects")


def gathered(options: Mapping[str, Any], *given: *_Objects) -> tuple[*_Objects]:
    """Change frozen dataclasses by keywords, each by those that name its fields.

    Args:
        options: keywords, typed by a `TypedDict` where they enter.
        given: dataclasses without a field in common.

    Returns:
        As many objects, validated anew where they changed.

    Raises:
        TypeError: a keyword that none of them has, as Python says it of a misspelled one.
    """
    left, changed = dict(options), []
    for one in cast("tuple[Any, ...]", given):
        own = {field.name: left.pop(field.name) for field in fields(one) if field.name in left}
        changed.append(replace(one, **own) if own else one)
    if left:
        raise TypeError(f"unexpected keyword argument {next(iter(left))!r}")
    return cast("tuple[*_Objects]", tuple(changed))
