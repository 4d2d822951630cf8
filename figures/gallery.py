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

from saddlescope.reporting import PICTURES, save_figure, select_runs
from saddlescope.runs import RunFolder, write_text

HERE = Path(__file__).parent
MONITORED = ("sgd", "sam", "sse-sam")
INTRO = """# Gallery

Every figure, drawn by `make figures` from the small default: long-tailed 8×8 digits, a small
ResNet, one training seed, 60 epochs ({versions}). They show what a figure looks like; with one seed
they support no claim between methods. The same from runs of your own:

```console
saddlescope figure NAME RUNS… -o FOLDER     # SVG, PDF and PNG
saddlescope figure all RUNS…
```

The recipes of the paper's figures and tables are in [train/](../train): `fig3.toml` (for `fig1`
too), `fig4.toml`, `table1-*.toml`, `table2-imagenet.toml`, `table3.toml`.

"""


def command(*arguments: str) -> None:
    """Run saddlescope; its output is shown where it fails."""
    done = subprocess.run(["saddlescope", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"saddlescope {' '.join(arguments)} failed:\n{done.stderr}")


def measure(runs: Path, method: str) -> None:
    """Keep the views of one of the demo's runs; measure the course of its training."""
    run = runs / "demo" / f"digits-lt-{method}-seed0"
    options = ("--groups", "tail", "--classes", "none", "--threads", "1", "--probes", "4")
    command("spectrum", str(run), *options, "--with", "density,slices,plane")
    course = runs / "course" / method
    if not RunFolder(course).exists():
        monitor = ("--monitor", "all", "--monitor-every", "6", "--threads", "1")
        chosen = ("--set", f"method.name={method}", "--set", "training.checkpoint_every=10")
        command("train", "package:digits-lt", *chosen, *monitor, "-o", str(course))
    for path in sorted(RunFolder(course).checkpoints.glob("epoch-*.pt")):
        epoch, groups = str(int(path.stem.removeprefix("epoch-"))), ("--groups", "all,head,tail")
        command("spectrum", str(course), "--checkpoint", epoch, *groups, *options[2:6])


def save(figure: Figure, name: str) -> None:
    """Write a PNG of few colours: a third of the size, and the same to look at."""
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
    demo, course = (select_runs([runs / part]) for part in ("demo", "course"))
    about = demo.runs[0].provenance
    versions = f"saddlescope {about['saddlescope']}, torch {about['libraries']['torch']}"
    text = INTRO.format(versions=versions)
    for name, picture in PICTURES.items():
        # The demo keeps the last epoch alone, where no step is taken any more.
        save(picture(course if name in ("epochs", "phase") else demo), name)
        text += f"## {name}\n\n{picture.caption}\n\n![{name}](gallery/{name}.png)\n\n"
    write_text(HERE / "README.md", text.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
