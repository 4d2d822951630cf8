"""The documentation is complete, its links lead somewhere, and its examples run.

A change is code, tests and documentation together: these tests fail when the code has a word
(an option, a column, a key, an exit code) that its reference page does not explain.
"""

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from pydantic import BaseModel

from benchmarks.command import app as benchmarks
from saddlescope.cli.main import app
from saddlescope.errors import ExitCode
from saddlescope.runs import (
    LOSSES,
    METHODS,
    METRIC_COLUMNS,
    NORM_COLUMNS,
    OPERATORS,
    SPECTRUM_COLUMNS,
    VIEW_COLUMNS,
    VIEW_IDENTITY,
    view_file,
)
from saddlescope.training import Recipe

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMENT = re.compile(r"(^|\s)#\s.*$", re.MULTILINE)


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_words(text: str) -> set[str]:
    """What stands in backticks, split into words; tables and prose alike."""
    return {word for span in re.findall(r"`([^`\n]+)`", text) for word in re.split(r"[\s,]+", span)}


def commands() -> Iterator[tuple[str, object]]:
    """Every command with its full name, the root included."""

    def walk(name: str, command: object) -> Iterator[tuple[str, object]]:
        # The door hands all its words to the clone's command.
        door = name == "saddlescope bench"
        yield name, typer.main.get_command(benchmarks) if door else command
        for child in getattr(command, "commands", {}).values():
            yield from walk(f"{name} {child.name}", child)

    yield from walk("saddlescope", typer.main.get_command(app))


def section(page: str, heading: str) -> str:
    """The text under a "## heading…" up to the next one of its level.

    Commands that differ in their last word alone may share one: "## saddlescope theory STATEMENT".
    """
    parts = re.split(r"^## ", page, flags=re.MULTILINE)

    def under(words: str) -> list[str]:
        return [part for part in parts if re.match(rf"{re.escape(words)}(?: [\[A-Z]|\n)", part)]

    found = under(heading) or under(heading.rsplit(" ", 1)[0])
    assert len(found) == 1, f"docs/reference/cli.md: expected one heading '## {heading}'"
    return found[0]


def options(command: object) -> Iterator[str]:
    for parameter in command.params:
        if parameter.param_type_name == "option":
            yield from (*parameter.opts, *parameter.secondary_opts)


CLI = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
RUNNABLE = [(name, command) for name, command in commands() if not getattr(command, "commands", {})]


@pytest.mark.parametrize(("name", "command"), RUNNABLE, ids=[name for name, _ in RUNNABLE])
def test_every_option_of_a_command_is_in_its_section(name, command):
    explained = code_words(section(CLI, name))
    missing = [option for option in options(command) if option not in explained]
    assert not missing, f"docs/reference/cli.md, '## {name}': explain {', '.join(missing)}"


def test_options_that_belong_to_no_command_are_explained():
    missing = set(options(typer.main.get_command(app))) - code_words(section(CLI, "saddlescope"))
    assert not missing, f"docs/reference/cli.md, '## saddlescope': explain {missing}"


@pytest.mark.parametrize(("name", "command"), RUNNABLE, ids=[name for name, _ in RUNNABLE])
def test_a_section_explains_no_option_that_is_gone(name, command):
    rows = re.findall(r"^\| (`-[^|]*) \|", section(CLI, name), re.MULTILINE)
    explained = {w for row in rows for w in code_words(row) if w.startswith("-")}
    gone = explained - set(options(command))
    assert not gone, f"docs/reference/cli.md, '## {name}': there is no {', '.join(sorted(gone))}"


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_commands_shown_exist_with_their_options(path):
    known = dict(commands())
    for block in CONSOLE.findall(path.read_text(encoding="utf-8")):
        for line in COMMENT.sub("", block).replace("\\\n", " ").splitlines():
            call = re.search(r"\bsaddlescope (.+)", line)
            if not call:
                continue
            words = call[1].split()
            names = [f"saddlescope {' '.join(words[:length])}" for length in (2, 1)]
            name = next((name for name in names if name in known), None)
            assert name, f"{page_id(path)}: no such command: {line.strip()}"
            taken = {*options(known[name]), "--help"}
            unknown = [w for w in words if re.match(r"--?[a-z]", w) and w not in taken]
            assert not unknown, f"{page_id(path)}: {name} has no {', '.join(unknown)}"


def test_every_column_is_explained():
    explained = code_words((DOCS / "howto" / "read-a-table.md").read_text(encoding="utf-8"))
    missing = [c for c in (*SPECTRUM_COLUMNS, *METRIC_COLUMNS) if c not in explained]
    assert not missing, f"docs/howto/read-a-table.md: explain {', '.join(missing)}"


def test_every_column_of_the_norms_is_explained():
    explained = code_words((DOCS / "reference" / "files.md").read_text(encoding="utf-8"))
    missing = [column for column in NORM_COLUMNS if column not in explained]
    assert not missing, f"docs/reference/files.md: explain {', '.join(missing)}"


def view_rows() -> Iterator[str]:
    """The table of the views' columns, from the schema."""
    for view, groups in VIEW_COLUMNS.items():
        first = f"`{view_file(Path('t.csv'), view).name}`"
        for columns in groups:
            names = ", ".join(f"`{name}`" for name in columns.types)
            yield f"| {first} | {names} | {columns.meaning} |\n".replace("|  |", "| |")
            first = ""


def test_every_view_and_its_columns_are_explained():
    page = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    assert set(VIEW_IDENTITY) <= code_words(page)
    table = "".join(view_rows())
    assert table in page, f"docs/reference/files.md, table of views: expected\n{table}"
    howto = code_words((DOCS / "howto" / "see-more.md").read_text(encoding="utf-8"))
    row = code_words(section(CLI, "saddlescope spectrum"))
    for view in VIEW_COLUMNS:
        assert view in howto, f"docs/howto/see-more.md: explain {view}"
        assert view in row, f"docs/reference/cli.md: explain --with {view}"
    operators = code_words((DOCS / "howto" / "read-a-table.md").read_text(encoding="utf-8"))
    assert set(OPERATORS) <= operators


def recipe_keys() -> Iterator[tuple[str, str]]:
    """(heading, key) of everything a recipe may hold."""
    for name, field in Recipe.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from ((f"`[{name}]`", key) for key in kind.model_fields)
        else:
            yield "Top level", name


@pytest.mark.parametrize(("heading", "key"), list(recipe_keys()))
def test_every_recipe_key_is_explained(heading, key):
    page = (DOCS / "reference" / "recipes.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", page, flags=re.MULTILINE)
    text = next((part for part in parts if part.startswith(heading)), "")
    assert re.search(rf"^\| `{key}` \|", text, re.MULTILINE), (
        f"docs/reference/recipes.md, '## {heading}': explain `{key}`"
    )


def test_methods_losses_and_exit_codes_are_explained():
    recipes = code_words((DOCS / "reference" / "recipes.md").read_text(encoding="utf-8"))
    assert {*METHODS, *LOSSES} <= recipes
    for code in ExitCode:
        assert f"| {code.value} | `{code.name}` |" in CLI, f"docs/reference/cli.md: {code!r}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 6_000


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_lead_to_files(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)  # PICTURES[name](selection) is no link
    for target in LINK.findall(text):
        file, _, _anchor = target.partition("#")
        if file and "://" not in file:
            assert (path.parent / file).exists(), f"{page_id(path)}: no file {target}"


def test_every_page_is_in_the_navigation():
    # The file has no tags, but needs PyYAML to parse; its lines are simple enough to read.
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", config, re.MULTILINE))
    assert listed == {str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")}


WITH_PYTHON = [
    path
    for path in PAGES
    if path.name != "own-loop.md"  # which has its own test, in a process of its own
    and PYTHON.search(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("path", WITH_PYTHON, ids=page_id)
def test_python_examples_run_from_top_to_bottom(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "example"}
    for match in PYTHON.finditer(text):
        # Blank lines in front, so that a traceback has the page's line numbers.
        line = text[: match.start(1)].count("\n")
        exec(compile("\n" * line + match[1], str(path), "exec"), names)


@pytest.mark.parametrize(
    "module", ["saddlescope.curvature.operators.hessian", "saddlescope.sharpness.optimizer"]
)
def test_docstring_examples_run(module):
    found = doctest.testmod(importlib.import_module(module), report=True)
    assert found.attempted > 0
    assert found.failed == 0


def rooms_imported(room: str) -> set[str]:
    """The other rooms that a room imports, at its heads or inside its functions."""
    found: set[str] = set()
    for file in (ROOT / "saddlescope" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("saddlescope."):
                found.add(str(node.module).split(".")[1])
    return {name for name in found - {room, "runs"} if (ROOT / "saddlescope" / name).is_dir()}


def test_the_table_of_rooms_says_what_each_imports():
    table = (DOCS / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `saddlescope\.(\w+)` \|.*\| ([^|]*) \|$", table, re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "saddlescope").glob("*/__init__.py")}
    assert {room for room, _ in rows} == folders
    for room, said in rows:
        if said != "all of them":
            written = set() if said == "no other room" else set(said.split(", "))
            assert rooms_imported(room) == written, room
