"""How the runs of a report were made: commands and courses, measurement, versions and hardware.

Everything here is plain text. The template escapes it; nothing in this module may return markup.
"""

import shlex
from typing import Any

from saddlescope.reporting.selection import Selection, spread

_ENVIRONMENT = (
    ("saddlescope", "saddlescope"),
    ("commit", "commit"),
    ("Python", "python"),
    ("platform", "platform"),
    ("processor", "processor"),
    ("cores", "cores"),
    ("threads", "threads"),
    ("device", "device"),
    ("device name", "device_name"),
)


def courses(chosen: Selection) -> list[dict[str, Any]]:
    """List each run's command, recipe and course."""
    rows = []
    for run, label in zip(chosen.runs, chosen.labels, strict=True):
        command = run.provenance.get("command")
        words = [str(word) for word in command] if isinstance(command, list) else []
        rows.append(
            {
                "name": run.name,
                "label": label,
                "method": run.method,
                "command": shlex.join(words) or "not recorded",
                "recipe": run.recipe_text,
                "seed": run.seed,
                "epochs": f"{len(run.metrics)} of {run.epochs or '?'}",
                "switch": run.switch_epoch,
                "seconds": float(run.metrics["seconds"].sum()) or None,
                "started": str(run.provenance.get("started") or "—"),
                "state": str(run.info.get("state") or "not stated"),
            }
        )
    return rows


def measurement(chosen: Selection) -> list[tuple[str, str]]:
    """Say how the spectra compared were measured."""
    rows = chosen.rows
    if rows.empty:
        return []
    facts = [
        (title, ", ".join(sorted(set(rows[column].astype(str)))))
        for title, column in (
            ("split", "split"), ("loss", "criterion"), ("checkpoint", "checkpoint"),
            ("dtype", "dtype"), ("device", "device"), ("stop rule", "stop_rule"),
            ("settings", "settings"),
        )
    ]  # fmt: skip
    products = rows["matvecs"].dropna().astype(int)
    if len(products):
        facts.append(("Hessian products a row", spread((products.min(), products.max()))))
        facts.append(("Hessian products in all", str(products.sum())))
    return facts


def environments(chosen: Selection) -> list[dict[str, Any]]:
    """List the distinct sets of versions and hardware, each with the runs made there."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run, label in zip(chosen.runs, chosen.labels, strict=True):
        facts = [(title, run.provenance.get(key)) for title, key in _ENVIRONMENT]
        libraries = run.provenance.get("libraries")
        if isinstance(libraries, dict):
            facts += [(str(name), version) for name, version in libraries.items()]
        known = tuple((title, str(fact)) for title, fact in facts if fact is not None)
        found.setdefault(known, []).append(label)
    return [{"items": items, "labels": labels} for items, labels in found.items()]
