"""One offline HTML file that answers the question from run folders alone.

The page is complete in itself: figures are inline SVG, tables are embedded as CSV, and its
content policy forbids every request. It holds no time of making, so that the same folders give
the same bytes. Everything read from a folder goes through the template's escaping; only figures,
which matplotlib drew, are inserted as markup.
"""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from saddlescope._version import __version__
from saddlescope.reporting import views
from saddlescope.reporting.catalogue import PICTURES, TABLES
from saddlescope.reporting.figures import (
    extremes_by_class,
    fig4,
    ratio_by_class,
    shot_accuracy,
    training_curves,
)
from saddlescope.reporting.figures.canvas import color_variables, figure_bytes, inline_svg
from saddlescope.reporting.figures.classes import crowd_note
from saddlescope.reporting.figures.epochs import eigenvalue_course
from saddlescope.reporting.figures.training import training_scope
from saddlescope.reporting.findings import Findings, find
from saddlescope.reporting.loading import Problem, Run, load_runs
from saddlescope.reporting.palette import INK, METHOD_STYLES, OTHER
from saddlescope.reporting.paper import TABLE_TITLES, paper_table, paper_text
from saddlescope.reporting.selection import Selection, select
from saddlescope.reporting.tables import accuracy_table, class_table, spectrum_table, to_csv
from saddlescope.reporting.text import shorten
from saddlescope.runs import write_text

LANDSCAPE = ("epochs", "density", "slices", "plane")
"""Figures that are shown where their data was kept."""


@dataclass(frozen=True)
class Report:
    """What `write_report` made.

    Attributes:
        path: The HTML file.
        problems: Folders and files that could not be read; the page lists them too.
        findings: What the page says.
    """

    path: Path
    problems: tuple[Problem, ...]
    findings: Findings


@dataclass(frozen=True)
class _Picture:
    """A figure on the page: inline for wide and narrow windows, and as a download."""

    name: str
    number: int
    caption: str
    wide: Markup
    narrow: Markup | None
    download: str


def write_report(
    run_paths: Iterable[str | Path], output: str | Path, *, split: str = "train"
) -> Report:
    """Write the report of some run folders.

    Args:
        run_paths: Run folders, or folders that contain run folders.
        output: The HTML file, written atomically.
        split: The split whose spectra are compared.

    Returns:
        The file, the problems met on the way, and the findings.
    """
    runs, problems = load_runs(run_paths)
    findings = find(runs, split=split)
    write_text(output, _render(runs, problems, findings, split))
    return Report(Path(output), tuple(problems), findings)


def _render(
    runs: Sequence[Run], problems: Sequence[Problem], findings: Findings, split: str
) -> str:
    environment = Environment(
        loader=PackageLoader("saddlescope.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["symbols"] = _symbols
    chosen = select(runs, split=split)
    pictures = _pictures(runs, chosen, split)
    template = environment.get_template("report.html.j2")
    return template.render(
        version=__version__,
        title=_title(runs),
        findings=findings,
        problems=problems,
        scope=chosen.scope(),
        pictures=pictures,
        landscape=[name for name in LANDSCAPE if name in pictures],
        paper_tables=_paper_tables(runs),
        headings=views.CLASS_HEADINGS,
        class_rows=views.class_rows(runs, split=split),
        methods=[(label, views.method_mark(key)) for key, label in _methods(runs)],
        accuracy_rows=views.accuracy_rows(runs),
        runs=views.run_rows(runs),
        measurement=views.measurement(chosen),
        environments=views.environments(runs),
        downloads=_downloads(runs, split),
        mark=views.mark,
        colors=_colors(),
        dark_colors=_colors(dark=True),
    )


def _title(runs: Sequence[Run]) -> str:
    """Data set and model of the runs, as far as their recipes name them."""
    names = []
    for table in ("data", "model"):
        found = [run.recipe.get(table) for run in runs]
        known = {str(item["name"]) for item in found if isinstance(item, dict) and "name" in item}
        names.append(shorten(", ".join(sorted(known)), 60))
    return ", ".join(name for name in names if name)


def _methods(runs: Sequence[Run]) -> list[tuple[str, str]]:
    present = {run.method: run.method_label for run in select(runs).runs}
    return [(key, shorten(label, 28)) for key, label in present.items()]


def _pictures(runs: Sequence[Run], chosen: Selection, split: str) -> dict[str, _Picture]:
    """Every figure that has something to show."""
    pictures: dict[str, _Picture] = {}

    def capital(text: str) -> str:
        return f"{text[:1].upper()}{text[1:]}."

    def add(name: str, draw: Callable[..., Figure], caption: str, **options: Any) -> None:
        stackable = name in ("fig4", "training")
        wide = draw(runs, note=False, **options)
        narrow = draw(runs, note=False, stacked=True, **options) if stackable else None
        alone = figure_bytes(draw(runs, **options), "svg")
        pictures[name] = _Picture(
            name=name,
            number=len(pictures) + 1,
            caption=caption,
            wide=_inline(wide, name, caption),
            narrow=_inline(narrow, f"{name}-narrow", caption) if narrow else None,
            download=_data_uri("image/svg+xml", alone),
        )

    scope = capital(chosen.scope())
    crowd = crowd_note(chosen)
    classes = f"{scope} {capital(crowd)}" if crowd else scope
    if chosen.panels:
        add("fig4", fig4, "λ_ratio by method, in the layout of the paper's Fig. 4. Points are "
            "networks, horizontal bars the bounds of their eigenvalues; each panel has a scale of "
            f"its own. {scope}", split=split)  # fmt: skip
    if chosen.names("class"):
        add("ratio", ratio_by_class, "λ_ratio of every class, from the most frequent to the "
            f"rarest, with bounds. {classes}", split=split)  # fmt: skip
        add("extremes", extremes_by_class, "The largest (above) and the smallest (below) "
            f"eigenvalue of every class, with bounds. {classes}", split=split)  # fmt: skip
    for name in LANDSCAPE:
        if _has(name, runs):
            add(name, PICTURES[name].draw, PICTURES[name].caption)
    if any(len(run.metrics) for run in runs):
        switched = any(run.switch_epoch is not None for run in runs)
        switch = " The dashed vertical line marks the first epoch of stage 2." if switched else ""
        add("training", training_curves, "Test accuracy by shots, and mean training loss of head "
            f"and tail classes.{switch} {capital(training_scope(runs))}")  # fmt: skip
        last = capital(training_scope(runs, last=True))
        add("shots", shot_accuracy, f"Test accuracy by shots. {last}")
    return pictures


def _has(name: str, runs: Sequence[Run]) -> bool:
    """Whether a figure of `LANDSCAPE` has its data."""
    if name == "epochs":
        return any(len(eigenvalue_course(run, "all")) > 1 for run in runs)
    return any(run.views.get(name) for run in runs)


def _paper_tables(runs: Sequence[Run]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and measured rows of each table of the paper that these runs belong to."""
    tables = []
    for number in TABLES.values():
        frame = paper_table(runs, number)
        measured = frame[frame["seeds"] > 0]
        if len(measured):
            text = paper_text(measured).drop(columns="to fill").astype(str)
            rows: list[list[str]] = text.to_numpy().tolist()
            tables.append((TABLE_TITLES[number], list(text.columns), rows))
    return tables


def _inline(figure: Figure, name: str, caption: str) -> Markup:
    title = shorten(caption, 400) + " The numbers are in the tables of this page."
    return Markup(inline_svg(figure_bytes(figure, "svg"), name, title))


def _symbols(text: str) -> Markup:
    """Escape, then set λ's subscripts and keep `SSE-SAM`, `99.9 %` and `n = 438` on one line."""
    safe = re.sub(r"λ_(max|min|ratio)", r"λ<sub>\1</sub>", str(escape(text)))
    safe = safe.replace("SSE-SAM", '<span class="nb">SSE-SAM</span>')
    safe = re.sub(r"(?<=\S) = (?=[\d.−-])", "&nbsp;=&nbsp;", safe)
    return Markup(safe.replace(" %", "&nbsp;%"))


def _downloads(runs: Sequence[Run], split: str) -> list[tuple[str, str, str]]:
    """File name, description and data URI of each table."""
    tables = (
        ("classes.csv", "the class table", class_table(runs, split=split)),
        ("spectra.csv", "every spectrum row measured", spectrum_table(runs)),
        ("accuracy.csv", "the accuracy table", accuracy_table(runs)),
    )
    frames = [entry for entry in tables if len(entry[2])]
    for name, number in TABLES.items():
        frame = paper_table(runs, number)
        if frame["seeds"].any():
            frames.append((f"{name}.csv", f"Table {number} of the paper beside these runs", frame))
    return [
        (name, text, _data_uri("text/csv;charset=utf-8", to_csv(frame).encode("utf-8")))
        for name, text, frame in frames
    ]


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
