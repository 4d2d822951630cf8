"""Run the notebooks of this folder and write them as .ipynb, with their outputs.

    python analysis/execute.py [--quick] [NOTEBOOK.py …]

The notebooks are kept as text (jupytext's percent format), so that a change can be read. Each is
executed in this folder's own processes and written beside its text; nothing is written for one
that fails.
"""

import argparse
import os
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(path: Path, *, timeout: int = 3600) -> Path:
    """Execute one notebook.

    Args:
        path: of its text.
        timeout: seconds a cell may take.

    Returns:
        The path of the .ipynb.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = jupytext.read(path)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources=folder,
        # The kernel warns of its local sockets; nothing in a notebook is secret.
        extra_arguments=["--IPKernelApp.log_level=40"],
    ).execute()
    for cell in notebook.cells:
        # When each cell ran differs between two runs of the same notebook, and says nothing.
        cell.metadata.pop("execution", None)
    target = path.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    return target


def main() -> None:
    """Execute those asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="texts; all by default")
    parser.add_argument("--quick", action="store_true", help="few trials and epochs, as in tests")
    options = parser.parse_args()
    # Another backend would show nothing, and the notebooks would have no pictures.
    os.environ.pop("MPLBACKEND", None)
    if options.quick:
        os.environ["SADDLESCOPE_QUICK"] = "1"
    for path in options.notebooks or sorted(HERE.glob("[0-9]*.py")):
        began = time.perf_counter()
        written = execute(path.resolve())
        print(f"{written.name}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
