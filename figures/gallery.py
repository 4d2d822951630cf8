"""Make the gallery: the small default trained and measured, every figure drawn, README.md written.

    python figures/gallery.py [RUNS]

RUNS is a folder for the runs (by default runs/gallery); what is there already is not made again. No
data set and no GPU are needed.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from saddlescope.reporting import PICTURES, fig2, house_style, load_runs, save_figure
from saddlescope.runs import RunFolder, write_text
from saddlescope.theory import figure2, phase_figure, place

HERE = Path(__file__).parent
MONITORED = ("sgd", "sam", "sse-sam")
FIG2 = (
    "SGD and SAM from near a saddle, their true trajectories: where SAM is held at it, and where "
    "Theorem 1 holds. The paper does not give its function."
)
PHASE = (
    "Where measured checkpoints stand: a SAM step near a saddle beside one of SGD, by a = η|λ_min| "
    "and b = ρ|λ_min|/‖∇L‖. Theorem 1 is possible above the dashed line."
)
INTRO = """# Gallery

Every figure, drawn by `make figures` from the small default: long-tailed 8×8 digits, a small
ResNet, one training seed, 60 epochs ({versions}). They show what a figure looks like; with one seed
they support no claim between methods. The same from runs of your own:

```console
saddlescope figure NAME RUNS… -o FOLDER     # SVG, PDF and PNG
saddlescope figure all RUNS…
```

One short script for each figure and table of the paper is in this folder (`fig1.py` … `table3.py`).

"""


def command(*arguments: str) -> None:
    """Run saddlescope; its output is shown where it fails."""
    done = subprocess.run(["saddlescope", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"saddlescope {' '.join(arguments)} failed:\n{done.stderr}")


def measure(runs: Path, method: str) -> None:
    """The views of one of the demo's runs, and its course with a monitor."""
    run = runs / "demo" / f"digits-lt-{method}-seed0"
    options = ("--groups", "tail", "--classes", "none", "--threads", "1", "--probes", "4")
    command("spectrum", str(run), *options, "--with", "density,slices,plane")
    course = runs / "course" / method
    if not RunFolder(course).exists():
        monitor = ("--monitor", "all", "--monitor-every", "6", "--threads", "1")
        chosen = ("--set", f"method.name={method}")
        command("train", "package:digits-lt", *chosen, *monitor, "-o", str(course))


def save(figure: Figure, name: str) -> None:
    """A PNG of few colours: a third of the size, and the same to look at."""
    (path,) = save_figure(figure, HERE / "gallery", name, formats=("png",))
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(128)
    small.save(path, optimize=True)


def main() -> None:
    """Train, measure, draw, write."""
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/gallery")
    command("demo", "-o", str(runs / "demo"))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda method: measure(runs, method), MONITORED))
    demo, _ = load_runs([runs / "demo"])
    course, _ = load_runs([runs / "course"])
    folders = [RunFolder(path) for path in sorted((runs / "demo").glob("digits-lt-*"))]
    drawn = {name: entry.draw(course if name == "epochs" else demo)
             for name, entry in PICTURES.items()}  # fmt: skip
    with house_style():
        drawn |= {"fig2": fig2(figure2()), "phase": phase_figure(place(folders))}
    captions = {name: entry.caption for name, entry in PICTURES.items()}
    captions |= {"fig2": FIG2, "phase": PHASE}
    about = demo[0].provenance
    versions = f"saddlescope {about['saddlescope']}, torch {about['libraries']['torch']}"
    text = INTRO.format(versions=versions)
    order = ["summary", "fig1", "fig2", "fig3", "fig4"]
    for name in (*order, *sorted(drawn.keys() - set(order))):
        save(drawn[name], name)
        text += f"## {name}\n\n{captions[name]}\n\n![{name}](gallery/{name}.png)\n\n"
    write_text(HERE / "README.md", text.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
