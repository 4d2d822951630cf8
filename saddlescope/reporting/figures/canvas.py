"""Making, saving and inlining figures: no pyplot state, the same bytes for the same data.

Figures are drawn on `matplotlib.figure.Figure` objects under the house style. Dates and version
strings are kept out of the files, and SVG ids are salted by the style sheet, so two runs over
the same run folders write identical files.
"""

import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from saddlescope.errors import UsageError
from saddlescope.palette import INK, METHOD_STYLES, OTHER, house_style
from saddlescope.reporting.text import shorten
from saddlescope.runs import write_bytes

WIDTH: Final = 7.2
"""Inches: a two-column text width."""
RATIO_LABEL: Final = r"$\lambda_\mathrm{ratio} = |\lambda_\mathrm{max}/\lambda_\mathrm{min}|$"

_METADATA: Final[dict[str, dict[str, Any]]] = {
    "svg": {"Date": None, "Creator": "saddlescope"},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": "saddlescope", "Producer": None},
    "png": {"Software": "saddlescope"},
}


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure with a canvas of its own, laid out so that nothing overlaps."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def add_note(figure: Figure, text: str) -> None:
    """Write `text` small at the foot: what the numbers are, for a figure that travels alone."""
    columns = int(figure.get_figwidth() * 19)
    lines = textwrap.fill(drawable(text, 400), columns)
    figure.supxlabel(lines, fontsize=6.5, x=0.01, ha="left", color="#6b7075")


def empty_figure(text: str) -> Figure:
    """Make a figure that says why there is nothing to draw."""
    figure = new_figure(WIDTH, 1.0)
    figure.text(0.5, 0.5, text, ha="center", va="center", color="#6b7075")
    return figure


def drawable(text: str, width: int = 28) -> str:
    """Shorten to one line, with a box for each character that the figure font lacks."""
    known = _font_characters()
    return "".join(c if ord(c) in known else "□" for c in shorten(text, width))


@lru_cache(maxsize=1)
def _font_characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())


def value_scale(axes: Axes, values: Iterable[float], *, axis: str, room: bool = False) -> None:
    """Set a log scale where positive values span more than a factor of five, else a linear one.

    Tick labels are plain numbers either way. The range has room for error bars and markers, and
    with `room` for an arrow beyond the largest value.
    """
    wider = 3 if room else 1
    finite = [value for value in values if 0 < value < float("inf")]
    if not finite:
        return
    low, high = min(finite), max(finite)
    target = axes.xaxis if axis == "x" else axes.yaxis
    limits = axes.set_xlim if axis == "x" else axes.set_ylim
    if high > 5 * low:
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
        margin = (high / low) ** 0.08
        limits(low / margin, high * margin**wider)
        subs = (1, 2, 5) if high < 500 * low else (1,)
        target.set_major_locator(LogLocator(subs=subs))
        target.set_minor_locator(NullLocator())
    else:
        margin = 0.12 * (high - low) or 0.1 * high
        limits(low - margin, high + wider * margin)
        target.set_major_locator(MaxNLocator(5))
    target.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def signed_scale(axes: Axes, values: np.ndarray) -> None:
    """Make y symmetric-logarithmic where sizes span more than a factor of twenty, else linear."""
    finite = values[np.isfinite(values)]
    sizes = np.abs(finite[finite != 0])
    if len(sizes) and sizes.max() > 20 * np.quantile(sizes, 0.05):
        axes.set_yscale("symlog", linthresh=float(np.quantile(sizes, 0.1)), subs=[2, 5])
        # The scale's own labels are written in mathtext, which text from files rules out.
        plain = FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−"))
        axes.yaxis.set_major_formatter(plain)


def save_figure(
    figure: Figure,
    folder: str | Path,
    stem: str,
    *,
    formats: Sequence[str] = ("svg", "pdf", "png"),
) -> list[Path]:
    """Write a figure in several formats, each file atomically and with reproducible bytes.

    Raises:
        UsageError: a format other than svg, pdf and png.
    """
    unknown = [name for name in formats if name not in _METADATA]
    if unknown:
        raise UsageError(f"formats: {', '.join(unknown)} not known; choose from svg, pdf, png")
    paths = []
    for name in formats:
        path = Path(folder) / f"{stem}.{name}"
        write_bytes(path, figure_bytes(figure, name))
        paths.append(path)
    return paths


def figure_bytes(figure: Figure, name: str) -> bytes:
    """Write the figure as a file of format `name`, in memory."""
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format=name, metadata=_METADATA[name])
    content = buffer.getvalue()
    return re.sub(rb' (?:d|x|y)="[^"]*"', _round, content) if name == "svg" else content


def inline_svg(svg: bytes, prefix: str, title: str) -> str:
    """Turn an SVG file into an element for an HTML page.

    Ids get a prefix so that several figures on one page do not share glyphs or clip paths,
    colours become CSS variables with the original as fallback so that a dark page can change
    them. The global `<style>` is dropped (the page's own style sheet repeats it), and so are
    comments, in which matplotlib repeats every label.

    Args:
        svg: What `figure_bytes(figure, "svg")` returned: ours, not a stranger's.
        prefix: A name, unique on the page.
        title: Plain text without markup for the accessible name.
    """
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    dropped = r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->"
    text = re.sub(dropped, "", text, flags=re.DOTALL)
    text = re.sub(r"\s*\n\s*", " ", re.sub(r">\s+<", "><", text))
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for color, name in color_variables().items():
        text = text.replace(color, f"var(--{name}, {color})")
    head, _, body = text.partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    view = box.group(1) if box else "0 0 1 1"
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg role="img" aria-label="{label}" viewBox="{view}" {links}>{body}'


def _round(attribute: re.Match[bytes]) -> bytes:
    """Two decimals of a point are finer than any screen or press, and halve the file."""
    return re.sub(rb"\d+\.\d{3,}", lambda digits: b"%.2f" % float(digits[0]), attribute[0])


def color_variables() -> dict[str, str]:
    """Name the CSS variable that carries each colour of the figures on a page."""
    names = {color: f"ink-{number}" for number, color in enumerate((*INK, "#ffffff"))}
    names |= {style.color: f"m-{method}" for method, style in METHOD_STYLES.items()}
    return names | {OTHER.color: "m-other"}
