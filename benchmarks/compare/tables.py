"""Markdown tables of a benchmark's record: what stdout shows, and what the documentation holds."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.compare.cases import ALL_CASES, TABLE_CLASSES
from benchmarks.compare.scaling import SERIES, slope
from benchmarks.compare.tools import STREAMED, TOOLS

Content = dict[str, Any]
_INSTRUMENT = "saddlescope"
_WORDS = dict.fromkeys((*ALL_CASES, "gradient", _INSTRUMENT, STREAMED.key, *TOOLS))
_ORDER = {word: place for place, word in enumerate(_WORDS)}
"""Of cases and tools in tables, whatever the order in which they were measured."""


def tables(content: Content) -> str:
    """All tables that a record has the units for, each under a heading."""
    made = ((heading, table(content)) for heading, table in TABLES.values())
    return "\n\n".join(f"### {heading}\n\n{text}" for heading, text in made if text)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; empty without rows."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *lines])


def ends_table(content: Content) -> str:
    """One row for each case and tool; the ratio is that tool's seconds over the instrument's."""
    rows = []
    for case, tools in _tree(content, "ends").items():
        middle = {tool: _middle(runs) for tool, runs in tools.items()}
        ours = middle.get(_INSTRUMENT)
        for tool, found in middle.items():
            if found is None:
                reason = next(iter(tools[tool].values())).get("reason", "")
                rows.append((case, tool, "—", "—", "—", "—", "—", "—", _plain(reason)))
                continue
            ratio = found["seconds"] / ours["seconds"] if ours else None
            rows.append(
                (case, tool, found["setting"], _short(found["seconds"]), _short(found["gradients"]),
                 _short(found["products"]), _ratio(tool, found, ratio),
                 f"{_percent(found['max_error'])}, {_percent(found['min_error'])}",
                 "yes" if found["verified"] else "no")
            )  # fmt: skip
    header = ("case", "tool", "setting", "seconds", "gradients", "products", "ratio",
              "error of λ_max, λ_min", "verified")  # fmt: skip
    return markdown(header, rows)


def sweep_table(content: Content) -> str:
    """The setting found for each case and tool, and how many were tried."""
    rows = []
    for case, tools in _tree(content, "sweep").items():
        for tool, found in tools.items():
            setting = _setting(found["setting"]) if found["setting"] is not None else "none"
            tried = {row["setting"] for row in found.get("tried", ())}
            rows.append((case, tool, setting, str(len(tried)), _plain(found.get("reason", ""))))
    return markdown(("case", "tool", "setting", "tried", "why none"), rows)


def defaults_table(content: Content) -> str:
    """What a user gets who changes nothing."""
    rows = []
    for case, tools in _tree(content, "defaults").items():
        for tool, settings in tools.items():
            for setting, found in settings.items():
                if "reason" in found:
                    rows.append((case, tool, setting, "—", "—", "—", "—", _plain(found["reason"])))
                    continue
                rows.append(
                    (case, tool, setting, _short(found["gradients"]),
                     f"{_percent(found['max_error'])}, {_percent(found['min_error'])}",
                     "yes" if found["verified"] else "no", found["claims"], _bounds(found))
                )  # fmt: skip
    header = ("case", "tool", "setting", "gradients", "error of λ_max, λ_min", "within 1 %",
              "it says", "bounds on λ_min")  # fmt: skip
    return markdown(header, rows)


def table_table(content: Content) -> str:
    """Ten classes with one setting a tool, and all classes with the instrument.

    The ratio is one of seconds: those of a gradient, taken once a job, move by more than they do.
    """
    units = content["units"]
    rows, ours = [], units.get("table/ten/saddlescope")
    if ours is not None:
        right = sum(row.get("verified", False) for row in ours["rows"])
        rows.append(
            (_INSTRUMENT, "ten classes", ours["setting"], _short(ours["seconds"]),
             _short(ours["gradients"]), str(ours["products"]), "1", f"{right} of 10")
        )  # fmt: skip
    for tool, classes in _tree(content, "table/ten").items():
        found = [row for row in classes.values() if isinstance(row, dict)]
        timed = [row for row in found if "seconds" in row]
        if tool == _INSTRUMENT or len(timed) < len(TABLE_CLASSES):
            continue
        seconds = sum(row["seconds"] for row in timed)
        gradients = seconds / sum(row["gradient_seconds"] for row in timed)
        rows.append(
            (tool, "ten classes", timed[0]["setting"], _short(seconds), _short(gradients),
             str(sum(row["products"] for row in timed)),
             _times(seconds / ours["seconds"]) if ours else "—",
             f"{sum(row['verified'] for row in timed)} of {len(timed)}")
        )  # fmt: skip
    if (everything := units.get("table/all/saddlescope")) is not None:
        rows.append((_INSTRUMENT, f"{len(everything['rows'])} classes", everything["setting"],
                     _short(everything["seconds"]), _short(everything["gradients"]),
                     str(everything["products"]), "—", "—"))  # fmt: skip
    header = ("tool", "classes", "setting for all", "seconds", "gradients of all samples",
              "products", "ratio", "verified")  # fmt: skip
    return markdown(header, rows)


def memory_table(content: Content) -> str:
    """Peak growth for two products."""
    rows = []
    for case, tools in _tree(content, "memory").items():
        for tool, found in tools.items():
            size = f"{found['peak_bytes'] / 2**20:,.0f}" if "peak_bytes" in found else "—"
            rows.append((case, tool, size, _plain(found.get("reason", ""))))
    return markdown(("case", "tool", "peak, MiB", ""), rows)


def scaling_table(content: Content) -> str:
    """Seconds along each series, and the power they grow as beside the operation count's."""
    rows = []
    for name, (values, power) in SERIES.items():
        found = [content["units"].get(f"scaling/{name}/{value}") for value in values]
        if any(row is None for row in found):
            continue
        for key in sorted({k for row in found for k in row if k.startswith("seconds")}):
            seconds = [row[key] for row in found]
            sizes = [row.get("parameters", row["value"]) for row in found]
            what = name if key == "seconds" else f"{name}, {key.removeprefix('seconds_')} images"
            rows.append(
                (what, ", ".join(f"{size:,}" for size in sizes),
                 ", ".join(_short(value) for value in seconds),
                 f"{slope(sizes, seconds):.2f}" if power else _times(seconds[0] / seconds[-1]),
                 f"{power:g}" if power else "—")
            )  # fmt: skip
    return markdown(("series", "values", "seconds", "power or speed-up", "operation count"), rows)


def steps_table(content: Content) -> str:
    """A step of each method in SGD steps, beside its passes."""
    rows = []
    for network, found in _tree(content, "steps").items():
        for row in found["rows"]:
            old = row["released_code_least"]
            rows.append((network, row["method"], f"{row['forwards']}/{row['backwards']}",
                         _short(1e3 * row["seconds"]), f"{row['sgd_steps']:.2f}",
                         f"{row['least']:.2f}", f"{old:.2f}" if old else "—"))  # fmt: skip
    header = ("network", "method", "forward/backward passes", "ms", "SGD steps",
              "its passes alone", "passes of the released code")  # fmt: skip
    return markdown(header, rows)


def launches_table(content: Content) -> str:
    """What a product spends on launches."""
    rows = [
        (case, way, _short(1e3 * found["seconds"]), str(found["kernels"]),
         _percent(found["waiting_share"]))
        for case, ways in _tree(content, "launches").items()
        for way, found in ways.items()
    ]  # fmt: skip
    return markdown(("case", "product", "ms", "kernels", "share of waiting"), rows)


def precision_table(content: Content) -> str:
    """The ends in fewer digits."""
    rows = []
    for case, kinds in _tree(content, "precision").items():
        for kind, found in kinds.items():
            if "reason" in found or "message" in found:
                said = found.get("reason", found.get("message"))
                rows.append(
                    (case, kind, _percent(found.get("product_error")), "—", "—", "—", _plain(said))
                )
                continue
            rows.append(
                (case, kind, _percent(found["product_error"]), _percent(found["max_error"]),
                 _percent(found["min_error"]), str(found["products"]),
                 "" if found["converged"] else "not converged")
            )  # fmt: skip
    return markdown(
        ("case", "precision", "error of a product", "of λ_max", "of λ_min", "products", ""), rows
    )


def cases_table(content: Content) -> str:
    """What each case is, and its truth."""
    rows = [
        (case, str(found["samples"]), f"{found['parameters']:,}", f"{found['lambda_max']:.6g}",
         f"{found['lambda_min']:.6g}", found["source"], found["means"])
        for case, found in _tree(content, "truth").items()
    ]  # fmt: skip
    header = ("case", "samples", "parameters", "λ_max", "λ_min", "network and samples", "truth")
    return markdown(header, rows)


TABLES: dict[str, tuple[str, Callable[[Content], str]]] = {
    "ends": ("Seconds to a verified 1 % at both ends", ends_table),
    "sweep": ("What the sweeps found", sweep_table),
    "defaults": ("What defaults give", defaults_table),
    "table": ("A table of classes", table_table),
    "memory": ("Peak memory", memory_table),
    "scaling": ("Growth of the cost", scaling_table),
    "steps": ("A training step", steps_table),
    "launches": ("Launches", launches_table),
    "precision": ("Fewer digits", precision_table),
    "cases": ("The cases", cases_table),
}
"""Name to heading and table."""


def _tree(content: Content, part: str) -> dict[str, Any]:
    """Units "part/a/b/…" as nested dicts by a, b, …."""
    found: dict[str, Any] = {}
    paths = [key.split("/") for key in content["units"] if key.startswith(part + "/")]
    skipped = part.count("/") + 1
    for words in sorted(paths, key=lambda words: [_ORDER.get(w, len(_ORDER)) for w in words]):
        *path, last = words[skipped:]
        place = found
        for word in path:
            place = place.setdefault(word, {})
        place[last] = content["units"]["/".join(words)]
    return found


def _middle(runs: dict[str, Any]) -> dict[str, Any] | None:
    """Medians over timed runs; the worst error of them."""
    timed = [run for run in runs.values() if "seconds" in run]
    if not timed:
        return None
    middle: dict[str, Any] = {
        name: statistics.median(run[name] for run in timed)
        for name in ("seconds", "gradients", "products")
    }
    for name in ("max_error", "min_error"):
        known = [run[name] for run in timed if run[name] is not None]
        middle[name] = max(known, default=None)
    middle["verified"] = all(run["verified"] for run in timed)
    middle["setting"] = timed[0]["setting"]
    return middle


def _setting(setting: dict[str, Any]) -> str:
    from benchmarks.compare.tools import label

    return label(setting)


def _bounds(found: dict[str, Any]) -> str:
    if found["bounds"] is None:
        return "none"
    lower, upper = found["bounds"][1]
    return f"[{lower:.4g}, {upper:.4g}]"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(tool: str, found: dict[str, Any], ratio: float | None) -> str:
    if tool == _INSTRUMENT:
        return "1"
    return "one end only" if found["min_error"] is None else _times(ratio)


def _times(ratio: float | None) -> str:
    return "—" if ratio is None else f"{ratio:.2f} x"


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.2g} %"


def _plain(text: str) -> str:
    """Text for a cell: no bars, and not longer than a reader will read."""
    text = text.replace("|", "/")
    return text if len(text) <= 300 else text[:297] + "…"
