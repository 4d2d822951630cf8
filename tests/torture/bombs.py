"""Small files that ask for gigabytes or minutes: what reads them keeps within bounds.

Each is read in a process of its own that may take no more than so much memory and time; what would
need more ends it, and is a fault.
"""

import gc
import os
import pickle
import random
import resource
import signal
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from saddlescope.longtail.files import decode
from saddlescope.longtail.lists import read_list
from saddlescope.longtail.pickles import read_pickle
from saddlescope.runs import read_json, read_spectrum
from saddlescope.runs.schema import SPECTRUM_COLUMNS
from saddlescope.training import load_checkpoint, load_plan
from tests.torture.inputs import Bench, FaultError, attempt

MEMORY = 3 << 29
"""Bytes beside what the process has: what Pillow needs for the largest image that it opens."""
SECONDS = 120

MODEL = b"\x80\x02}X\x05\x00\x00\x00model"
SEAL = {"saddlescope_checksum": "x"}


def _archive(path: Path, opcodes: bytes, *, kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("c/data.pkl", opcodes)
        archive.writestr("c/version", "3\n")
        archive.writestr("c/byteorder", "little")


def many_objects(path: Path, rng: random.Random) -> None:
    """Each byte an object of 50 to 200 bytes."""
    opcode = rng.choice((b"}", b"]", b"\x8f", b")"))
    _archive(path, MODEL + b"](" + opcode * rng.randint(2_000_000, 20_000_000) + b"es.")


def many_objects_as_before(path: Path, rng: random.Random) -> None:
    """The same in the format before torch 1.6, or spread over its pickles."""
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
    body = MODEL + b"](" + b"}" * rng.randint(2_000_000, 20_000_000) + b"es."
    path.write_bytes(b"".join(head) + body + pickle.dumps([], 2))


def unpacks(path: Path, rng: random.Random) -> None:
    """An archive of zeros that says how large it is, or that it is small."""
    size = rng.randint(1 << 30, 3 << 29)
    _archive(path, bytes(size), kind=zipfile.ZIP_DEFLATED)
    if rng.random() < 0.7:
        small = struct.pack("<I", rng.randint(0, 10_000))
        path.write_bytes(path.read_bytes().replace(struct.pack("<I", size), small))


def repeats(path: Path, rng: random.Random) -> None:
    """Tensors that stand for more than the file holds, with a checksum to compute of them."""
    tensor = torch.zeros(1).expand(1 << rng.randint(24, 40))
    model = {str(number): tensor for number in range(rng.choice((1, 500)))}
    torch.save({"model": model} | (SEAL if rng.random() < 0.8 else {}), path)


def shares(path: Path, rng: random.Random) -> None:
    """A thousand tensors that are all the same memory."""
    tensor = torch.zeros(1 << 22)
    torch.save({"model": {str(n): tensor[: -1 - n] for n in range(1000)}} | SEAL, path)


def lies(path: Path, rng: random.Random) -> None:
    """A storage that is said to be longer than its record."""
    torch.save({"model": {"a": torch.zeros(16)}}, path, _use_new_zipfile_serialization=False)
    longer = b"J" + struct.pack("<i", rng.randint(17, 2**31 - 1))
    path.write_bytes(path.read_bytes().replace(b"K\x10", longer))


def long_header(path: Path, rng: random.Random) -> None:
    """A header of safetensors that is not there, or holds little."""
    header = b"{" + b" " * rng.randint(0, 90_000_000) + b"}"
    length = rng.choice((len(header), 99_000_000, 2**63))
    path.with_suffix(".safetensors").write_bytes(struct.pack("<Q", length) + header)


def pixels(path: Path, rng: random.Random) -> None:
    """One colour on as many pixels as are opened, or more."""
    side = rng.choice((13_000, 13_370, 16_000))
    mode, kind = rng.choice(
        (("L", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("I;16", "PNG"),
         ("1", "PNG"), ("LA", "PNG"), ("RGB", "JPEG"), ("RGB", "WEBP"))
    )  # fmt: skip
    Image.new(mode, (side, side)).save(path, kind)


def promised_pixels(path: Path, rng: random.Random) -> None:
    """A header that says how many come, and few that come."""
    head = rng.choice((b"P6 13300 13300 255\n", b"P5 13300 13300 65535\n", b"P1 13300 13300\n"))
    path.write_bytes(head + b"1" * rng.randint(0, 1000))


ARRAY = (
    b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    b"(K\x01(%st%sK\x00K\x01\x87R(K\x03%sNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x01atbs."
)


def axes(path: Path, rng: random.Random) -> None:
    """An array of many axes, or names of megabytes in it."""
    long = b"T" + struct.pack("<i", 5_000_000) + b"x" * 5_000_000
    shape = (
        b"K\x01" if rng.random() < 0.5 else b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f" * 250_000
    )
    name = b"cnumpy\ndtype\n" + rng.choice((b"U\x02u1", long))
    path.write_bytes(ARRAY % (shape, name, rng.choice((b"U\x01|", long))))


def keys(path: Path, rng: random.Random) -> None:
    """Keys of many parts: bare, quoted, in a header, in a table within a line, on many lines."""
    part = rng.choice(("a", '"a="', "'#'"))
    long = f".{part}" * rng.choice((3000, 90_000))
    path.write_text(
        rng.choice(
            (f"a{long} = 1\n", f"[a{long}]\nb = 1\n", f"x = {{a{long} = 1}}\n",
             "".join(f"a{n}{'.a' * 299} = 1\n" for n in range(1500)))
        )
    )  # fmt: skip


def product(path: Path, rng: random.Random) -> None:
    """A sweep of more runs than anybody has."""
    names = ("seed", "epochs", "norms_every", "losses_every")
    axis = "".join(f'"training.{name}" = {list(range(1, 1000))}\n' for name in names)
    path.write_text(f'extends = "package:digits-lt"\n[[sweep]]\n{axis}')


def brackets(path: Path, rng: random.Random) -> None:
    """JSON of many lists, beside or in one another, or of many digits."""
    path.write_text(rng.choice(("[" + "[]," * 2_000_000 + "[]]", "[" * 3_000_000, "1" * 3_000_000)))


def cells(path: Path, rng: random.Random) -> None:
    """A table of commas, of quotes, of rows."""
    rows = rng.choice(("," * 9_000_000, '"' * 9_000_000, "," * (len(SPECTRUM_COLUMNS) - 1) + "\n"))
    path.write_text(",".join(SPECTRUM_COLUMNS) + "\n" + rows * (1 if len(rows) > 1000 else 200_000))


def lines(path: Path, rng: random.Random) -> None:
    """A list of one line of megabytes, or of many."""
    path.write_text(rng.choice(("a" * 9_000_000 + " 0\n", "a.png 0\n" * 300_000, " " * 9_000_000)))


Read = Callable[[Path], object]


def _checkpoint(path: Path) -> object:
    other = path.with_suffix(".safetensors")
    return load_checkpoint(other if other.exists() else path, strict=False)


BOMBS: dict[Callable[[Path, random.Random], None], Read] = {
    **dict.fromkeys((many_objects, many_objects_as_before, unpacks, repeats, shares, lies,
                     long_header), _checkpoint),
    **dict.fromkeys((pixels, promised_pixels), lambda path: decode(path, shrink_to=None)),
    axes: lambda path: read_pickle(path, max_bytes=31_000_000),
    **dict.fromkeys((keys, product), lambda path: [run.to_toml() for run in load_plan(path).runs]),
    brackets: read_json, cells: read_spectrum,
    lines: lambda path: read_list(path, root=path.parent),
}  # fmt: skip


def bomb(bench: Bench, rng: random.Random) -> str:
    """Make one and read it within the bounds: "accepted", "refused" or what went wrong."""
    return one(rng.choice(list(BOMBS)), bench, rng)


def one(make: Callable[[Path, random.Random], None], bench: Bench, rng: random.Random) -> str:
    """Make this one and read it."""
    path = bench.fresh() / "bomb"
    make(path, rng)
    said, says = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(says, _bounded(BOMBS[make], path, bench, rng).encode()[:4000])
        finally:
            os._exit(0)
    os.close(says)
    with open(said, "rb") as pipe:
        outcome = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status or outcome not in ("accepted", "refused"):
        raise FaultError(f"{make.__name__}: status {status}: {outcome}")
    return outcome


def _bounded(read: Read, path: Path, bench: Bench, rng: random.Random) -> str:
    gc.disable()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    return attempt(lambda _, __: read(path) and None, bench, rng)
