"""One offline HTML file that answers the question from run folders alone.

The page is complete in itself: figures are inline SVG, tables are embedded as CSV, and its
content policy forbids every request. It holds no time of making, so that the same folders give
the same bytes. Everything read from a folder goes through the template's escaping; only figures,
which matplotlib drew, are inserted as markup.
"""

import base64
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from saddlescope._version import __version__
from saddlescope.palette import INK, METHOD_STYLES, OTHER, house_style
from saddlescope.reporting import made
from saddlescope.reporting.figures import PICTURES, Picture
from saddlescope.reporting.figures.canvas import add_note, color_variables, figure_bytes, inline_svg
from saddlescope.reporting.figures.picture import Section
from saddlescope.reporting.findings import Findings, find
from saddlescope.reporting.frames import accuracy_table, class_table, spectrum_table, to_csv
from saddlescope.reporting.loading import Problem, Run
from saddlescope.reporting.paper import measured_tables
from saddlescope.reporting.selection import Selection, select_runs
from saddlescope.reporting.text import decimal, interval, number, number_within, shorten, whole
from saddlescope.runs import METHODS, write_text

_MARKS = {
    "negative-curvature", "unresolved", "positive", "not-converged",
    "supported", "contradicted", "undecided",
}  # fmt: skip
"""Verdicts that have a look of their own; the style sheet calls the first `negative`."""


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        path: The HTML file.
        problems: Folders and files that could not be read; the page lists them too.
        findings: What the page says.
    """

    path: Path
    problems: tuple[Problem, ...]
    findings: Findings


@dataclass(frozen=True)
class _Shown:
    """A figure on the page: inline for wide and narrow windows, and as a download."""

    name: str
    caption: str
    wide: Markup
    narrow: Markup | None
    download: str


def write_report(runs: Selection | Iterable[str | Path], output: str | Path) -> Report:
    """Write the report of some runs.

    Args:
        runs: A selection, or what `select_runs` makes one from.
        output: The HTML file, written atomically.

    Returns:
        The file, the problems met on the way, and the findings.
    """
    chosen = runs if isinstance(runs, Selection) else select_runs(runs)
    findings = find(chosen)
    write_text(output, _render(chosen, findings))
    return Report(Path(output), _problems(chosen), findings)


def _render(chosen: Selection, findings: Findings) -> str:
    environment = Environment(
        loader=PackageLoader("saddlescope.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "symbols": _symbols,
        "mark": _mark,
        "dot": _dot,
        "sortable": _sortable,
        "number": number,
        "interval": interval,
        "number_within": number_within,
        "whole": whole,
        "decimal": decimal,
        "shorten": shorten,
    }
    classes, accuracy, paper = class_table(chosen), accuracy_table(chosen), measured_tables(chosen)
    tables = {
        "classes.csv": ("the class table", classes),
        "spectra.csv": ("every spectrum row measured", spectrum_table(chosen)),
        "accuracy.csv": ("the accuracy table", accuracy),
        **{f"{t.name}.csv": (f"{t.short} of the paper beside these runs", t.frame) for t in paper},
    }
    sections: dict[str, list[_Shown]] = {section: [] for section in get_args(Section)}
    for picture in PICTURES.values():
        if picture.section and (shown := _shown(picture, chosen)):
            sections[picture.section].append(shown)
    return environment.get_template("report.html.j2").render(
        version=__version__,
        title=_title(chosen.runs),
        by_method=chosen.of_methods,
        of_the_loss=chosen.of_the_loss,
        findings=findings,
        problems=_problems(chosen),
        scope=chosen.scope(),
        sections=sections,
        paper=paper,
        classes=classes.to_dict("records"),
        starts=classes["seed"].nunique(),
        methods={run.method: run.method_label for run in chosen.runs},
        accuracy=accuracy.to_dict("records"),
        runs=made.courses(chosen),
        measurement=made.measurement(chosen),
        environments=made.environments(chosen),
        downloads=[
            (name, text, _data_uri("text/csv;charset=utf-8", to_csv(frame).encode("utf-8")))
            for name, (text, frame) in tables.items()
            if len(frame)
        ],
        colors=_colors(),
        dark_colors=_colors(dark=True),
    )


def _problems(chosen: Selection) -> tuple[Problem, ...]:
    """What could not be read, and what the phase diagram leaves out."""
    _, left_out = chosen.placing
    return tuple(dict.fromkeys((*chosen.problems, *left_out)))  # a broken table is met twice


def _title(runs: Sequence[Run]) -> str:
    """Name data set and model of the runs, as far as their recipes do."""
    names = []
    for table in ("data", "model"):
        found = [run.recipe.get(table) for run in runs]
        known = {str(item["name"]) for item in found if isinstance(item, dict) and "name" in item}
        names.append(shorten(", ".join(sorted(known)), 60))
    return ", ".join(name for name in names if name)


def _shown(picture: Picture, chosen: Selection) -> _Shown | None:
    """Draw a figure for the page; None where it has nothing to show."""
    with house_style():
        drawn = picture.draw(chosen)
    if isinstance(drawn, str):
        return None
    note = f" {drawn.note[:1].upper()}{drawn.note[1:]}." if drawn.note else ""
    caption = picture.caption + note
    title = shorten(caption, 400) + " The numbers are in the tables of this page."

    def inline(figure: Figure, name: str) -> Markup:
        return Markup(inline_svg(figure_bytes(figure, "svg"), name, title))

    narrow = picture(chosen, note=False, narrow=True) if picture.narrow else None
    wide = inline(drawn.figure, picture.name)
    with house_style():
        add_note(drawn.figure, drawn.note)
    return _Shown(
        name=picture.name,
        caption=caption,
        wide=wide,
        narrow=inline(narrow, f"{picture.name}-narrow") if narrow else None,
        download=_data_uri("image/svg+xml", figure_bytes(drawn.figure, "svg")),
    )


def _mark(verdict: str) -> str:
    """Return the CSS class of a verdict; an unknown one has none."""
    return verdict.removesuffix("-curvature") if verdict in _MARKS else ""


def _dot(method: str) -> str:
    """Return the CSS class of a method's colour; strangers share one."""
    return f"m-{method}" if method in METHODS else "m-other"


def _sortable(value: float) -> str:
    """Return what a column of numbers sorts by; empty sorts last."""
    return repr(float(value)) if value is not None and math.isfinite(value) else ""


def _symbols(text: str) -> Markup:
    """Escape, then set λ's subscripts and keep `SSE-SAM`, `99.9 %` and `n = 438` on one line."""
    safe = re.sub(r"λ_(max|min|ratio)", r"λ<sub>\1</sub>", str(escape(text)))
    safe = safe.replace("SSE-SAM", '<span class="nb">SSE-SAM</span>')
    safe = re.sub(r"(?<=\S) = (?=[\d.−-])", "&nbsp;=&nbsp;", safe)
    return Markup(safe.replace(" %", "&nbsp;%"))


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _colors(*, dark: bool = False) -> list[tuple[str, str]]:
    """CSS variables of the figures' colours."""
    darker: dict[str, str] = INK | {
        style.color: style.dark for style in (*METHOD_STYLES.values(), OTHER)
    }
    shown = {color: darker.get(color) if dark else color for color in color_variables()}
    shown["#ffffff"] = "var(--paper)"
    return [(name, str(shown[color])) for color, name in color_variables().items()]
