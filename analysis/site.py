"""Put the executed notebooks of this folder among the pages of the site (hooks of mkdocs)."""

import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HERE = Path(__file__).parent
CODE = re.compile(
    r"(<pre\b.*?</pre>|<code\b.*?</code>|<(?:style|script)\b.*?</(?:style|script)>)", re.S
)
ELSEWHERE = re.compile(r'<script\b[^>]*\bsrc="https?:[^>]*>\s*</script>')
FORMULA = re.compile(r"(\$\$?)(.+?)\1", re.S)


@event_priority(100)  # before the plugin that makes pages of notebooks
def on_files(files: Files, config: dict[str, object]) -> Files:
    """Add each notebook under analysis/."""
    for path in sorted(HERE.glob("[0-9]*.ipynb")):
        name = f"{HERE.name}/{path.name}"
        files.append(File(name, str(HERE.parent), str(config["site_dir"]), False))
    return files


@event_priority(-100)  # after it
def on_page_content(html: str, page: Page, **_: object) -> str:
    """Write a notebook's formulas as MathML, which browsers draw without a script."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    parts = CODE.split(ELSEWHERE.sub("", html))  # MathJax would come from a CDN
    parts[::2] = [FORMULA.sub(_mathml, part) for part in parts[::2]]
    return "".join(parts)


def _mathml(found: re.Match[str]) -> str:
    dollars, formula = found.groups()
    plain = formula.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return convert(plain, display="block" if dollars == "$$" else "inline")
