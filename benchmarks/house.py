"""Count what the package costs its reader: length, loose options, imports past a room's door.

    python -m benchmarks.house [FOLDER] [--json] [--list ROW]

All is read from the syntax trees below FOLDER (default: saddlescope); nothing is imported. A room
is a folder directly inside FOLDER, a door the `__init__` of a folder. `--list` names the places
that a row counts.
"""

import argparse
import ast
import json
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from benchmarks import CLONE

PACKAGE = CLONE / "saddlescope"
MANY = "functions outside cli with 8 or more parameters"
NO_VERB = re.compile(r"(What|Of|Whether)\b")
PRIVATE = re.compile(r"_(?!_)")
DIRECTIVE = re.compile(r"#\s*(fmt|noqa|type|pragma):")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
          tokenize.ENDMARKER}  # fmt: skip


@dataclass(frozen=True)
class Module:
    """One file: its dotted name and folder, its lines (all, code, with a comment), its tree."""

    name: str
    folder: str
    lines: int
    code: int
    comments: int
    nodes: tuple[ast.AST, ...]

    @property
    def room(self) -> str:
        """The folder directly inside the package, or nothing."""
        return ".".join(self.folder.split(".")[1:2])


def read_module(path: Path, root: Path) -> Module:
    """Return the file `path` of the package in the folder `root`, read and counted."""
    text = path.read_text()
    nodes = tuple(ast.walk(ast.parse(text)))
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))[1:]  # the first names the encoding
    code = {n for t in tokens if t.type not in LAYOUT for n in range(t.start[0], t.end[0] + 1)}
    comments = [t for t in tokens if t.type == tokenize.COMMENT and not DIRECTIVE.match(t.string)]
    for node in nodes:
        if isinstance(node, Documented) and ast.get_docstring(node) is not None:
            code -= {*range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    counts = (len(text.splitlines()), len(code), len(comments))
    return Module(name, ".".join(parts[:-1]), *counts, nodes)


def imports(module: Module, house: dict[str, Module]) -> Iterator[tuple[str, int]]:
    """Yield (module of the house imported, line), each once a statement.

    A name that a door offers and a file bears too is taken for the file.
    """
    for node in module.nodes:
        if isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folders = module.folder.split(".")
            up = folders[: len(folders) + 1 - node.level] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            whole = {f"{base}.{alias.name}" for alias in node.names}
            found = {name if name in house else base for name in whole}
        else:
            continue
        yield from ((name, node.lineno) for name in sorted(found & house.keys()))


def doors(module: Module, house: dict[str, Module]) -> Iterator[tuple[str, str, int]]:
    """Yield (folder, module imported, line) for each import into a folder from outside of it."""
    folders = {other.folder for other in house.values()}
    for name, line in imports(module, house):
        entered = name if name in folders else name.rpartition(".")[0]
        while entered and not f"{module.folder}.".startswith(f"{entered.rpartition('.')[0]}."):
            entered = entered.rpartition(".")[0]
        if entered and not f"{module.folder}.".startswith(f"{entered}."):
            yield entered, name, line


def circle(house: dict[str, Module]) -> list[str]:
    """Return the modules of one import circle (imports inside functions count), if there is any."""
    uses = {m.name: {name for name, _ in imports(m, house)} for m in house.values()}
    try:
        TopologicalSorter(uses).prepare()
    except CycleError as error:
        return error.args[1][1:]
    return []


def parameters(function: Function) -> int:
    """Return the number of named parameters, self and cls left out."""
    spec = function.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def count_places(module: Module, house: dict[str, Module]) -> dict[str, list[str]]:
    """Return for each row the places of this module that it counts."""
    nodes = [(n, f"{module.name}:{getattr(n, 'lineno', 1)}") for n in module.nodes]
    functions = [(n, f"{at} {n.name}") for n, at in nodes if isinstance(n, Function)]
    public = [(n, at) for n, at in nodes if isinstance(n, Documented)
              and not PRIVATE.match(getattr(n, "name", ""))]  # fmt: skip
    loose = [(n, at) for n, at in functions if "Any" in ast.unparse(n.args.kwarg or ast.arg(""))]
    many = [(n, at) for n, at in functions if parameters(n) >= 8 and module.room != "cli"]
    asked = [at for n, at in nodes if isinstance(n, ast.Name) and n.id == "hasattr"]
    said = [(ast.get_docstring(n) or "", at) for n, at in public]
    rows = {
        MANY: [f"{at}: {parameters(n)}" for n, at in many],
        "**options: Any, public": [at for n, at in loose if not PRIVATE.match(n.name)],
        "**options: Any, private": [at for n, at in loose if PRIVATE.match(n.name)],
        "hasattr in curvature": asked if module.room == "curvature" else [],
        "modules over 350 lines": [module.name] if module.lines > 350 else [],
        "public docstrings without a verb": [at for text, at in said if NO_VERB.match(text)],
    }
    for kind, depths in (("between rooms", {1}), ("within rooms", {2, 3, 4})):
        through = [door for door in doors(module, house) if door[0].count(".") in depths]
        places = [(f"{module.name}:{at} {name}", name == door) for door, name, at in through]
        rows[f"imports {kind}"] = [place for place, _ in places]
        rows[f"imports {kind} past a door"] = [place for place, by_door in places if not by_door]
    return rows


def measure(root: Path) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Return every row's figure for the package in `root`, and what the counted places are."""
    modules = [read_module(path, root) for path in sorted(root.rglob("*.py"))]
    house = {module.name: module for module in modules}
    each = [count_places(module, house) for module in modules]
    places = {row: [place for rows in each for place in rows[row]] for row in each[0]}
    lines = sum(m.lines for m in modules)
    curvature = sum(m.lines for m in modules if m.room == "curvature")
    asked = len(places["hasattr in curvature"])
    most = (
        parameters(n)
        for m in modules if m.room != "cli"
        for n in m.nodes if isinstance(n, Function)
    )  # fmt: skip
    return {
        "lines": lines,
        "lines of code": sum(m.code for m in modules),
        "percent of lines with a comment": round(100 * sum(m.comments for m in modules) / lines, 2),
        **{row: len(found) for row, found in places.items()},
        "most parameters of a function outside cli": max(most, default=0),
        "hasattr per 1,000 lines of curvature": round(1000 * asked / max(curvature, 1), 2),
        "modules in an import circle": len(circle(house)),
    }, places


def main() -> None:
    """Print one row a line, as JSON, or the places of one row."""
    parser = argparse.ArgumentParser(description="Count what the package costs its reader.")
    parser.add_argument("folder", nargs="?", type=Path, default=PACKAGE)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--list", metavar="ROW", help="print the places that this row counts")
    options = parser.parse_args()
    figures, places = measure(options.folder.resolve())
    if options.list:
        if options.list not in places:
            parser.error(f"row {options.list!r}: expected one of {', '.join(places)}")
        print("\n".join(places[options.list]))
    elif options.json:
        print(json.dumps(figures, indent=2))
    else:
        print("\n".join(f"{figure:>10,}  {row}" for row, figure in figures.items()))


if __name__ == "__main__":
    main()
