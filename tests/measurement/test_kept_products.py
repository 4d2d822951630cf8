"""A row that was cut goes on at its product: with the same numbers, and never with another's."""

import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saddlescope.curvature import HessianOperator, MatrixSpec, StopRule
from saddlescope.errors import Interrupted, OperatorError
from saddlescope.measurement import Settings, kept_products
from saddlescope.runs import read_spectrum
from tests.curvature.processes import start_command
from tests.measurement import small

SLOW_NETWORK = """
import atexit, os, signal, sys
import torch
from saddlescope.curvature import HessianOperator
from saddlescope.measurement import kept_products

kept_products.WORTH = 0.0
keep, matvec, taken = kept_products.ProductsFile.keep, HessianOperator.matvec, []

def cut(self, *rest):
    keep(self, *rest)
    if self.count == 9 and "CUT" in os.environ:
        os.kill(os.getpid(), int(os.environ["CUT"]))

def counted(self, vector):
    taken.append(1)
    return matvec(self, vector)

kept_products.ProductsFile.keep, HessianOperator.matvec = cut, counted
atexit.register(lambda: print(f"taken {len(taken)}", file=sys.stderr))

def network():
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
    return torch.nn.Sequential(*layers).double()

def dataset():
    torch.manual_seed(1)
    return torch.randn(31, 4).double(), torch.arange(31) % 3
"""


@pytest.fixture(autouse=True)
def worth(monkeypatch):
    """Every product is kept, however quick."""
    monkeypatch.setattr(kept_products, "WORTH", 0.0)


def after(products):
    """Say when so many products have been taken."""
    calls = iter(range(1, 10**6))
    return lambda: next(calls) > products


@pytest.fixture
def taken(monkeypatch):
    """Hold every product that is really taken of the target's own matrix."""
    products, matvec = [], HessianOperator.matvec

    def counted(self, vector):
        products.append(1)
        return matvec(self, vector)

    monkeypatch.setattr(HessianOperator, "matvec", counted)
    return products


def files(folder):
    return sorted(path.name for path in folder.glob("*saddlescope-products*"))


def cut(path, *, at, on=None, **options):
    with pytest.raises(Interrupted, match="products of this row are kept, run again to go on"):
        small.job(path, on=on, classes=(), **options).run(should_stop=after(at))
    (file,) = files(path.parent)
    return path.with_name(file)


@pytest.mark.parametrize("operator", ["hessian", "hessian-minus-gauss-newton", "norm-weighted"])
@pytest.mark.parametrize("at", [0, 1, 9])
def test_a_cut_row_is_the_row_to_the_byte(tmp_path, operator, at):
    stop, matrix = StopRule(rtol=1e-8, atol=1e-9), MatrixSpec(operator=operator)
    options = {"settings": Settings(stop, matrix)}
    small.job(tmp_path / "whole.csv", classes=(), **options).run()
    path = tmp_path / "cut.csv"
    cut(path, at=at, **options)
    small.job(path, classes=(), **options).run()
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert files(tmp_path) == []


def test_no_product_is_taken_twice(tmp_path, taken):
    small.job(tmp_path / "whole.csv", classes=()).run()
    whole = len(taken)
    cut(tmp_path / "t.csv", at=20)
    small.job(tmp_path / "t.csv", classes=()).run()
    assert len(taken) == 2 * whole


def test_views_go_on_too_and_the_file_goes_with_the_last(tmp_path):
    whole = small.job(
        tmp_path / "whole.csv", classes=(), views=("density", "trace"), view_settings=small.QUICK
    )
    products = whole.run()[0]["matvecs"]
    path = tmp_path / "cut.csv"
    again = {"views": ("density", "trace"), "view_settings": small.QUICK}
    cut(path, at=products + 8, **again)
    assert len(read_spectrum(path)) == 1
    small.job(path, classes=(), **again).run()
    for name in ("density.json", "trace.csv"):
        one, other = tmp_path / "cut.views" / name, tmp_path / "whole.views" / name
        assert one.read_bytes() == other.read_bytes()
    assert files(tmp_path) == []


def test_another_tolerance_goes_on_with_the_same_products(tmp_path, taken):
    loose = {"settings": Settings(StopRule(rtol=0.1))}
    cut(tmp_path / "t.csv", at=20)
    taken.clear()
    small.job(tmp_path / "t.csv", classes=(), **loose).run()
    assert not taken
    small.job(tmp_path / "new.csv", classes=(), **loose).run()
    assert taken
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "new.csv").read_bytes()


def other_weights(on):
    with torch.no_grad():
        on.model[0].weight.mul_(1.01)


def other_loss(on):
    on.model[2].register_forward_hook(lambda _m, _i, out: 1.5 * out)


@pytest.mark.parametrize("change", [other_weights, other_loss])
def test_products_of_another_matrix_are_not_taken(tmp_path, change):
    """The digest is the same: who writes it may not know what a `forward` does."""
    path = tmp_path / "t.csv"
    cut(path, at=20)
    on = small.target()
    change(on)
    small.job(path, on=on, classes=()).run()
    anew = small.target()
    change(anew)
    small.job(tmp_path / "new.csv", on=anew, classes=()).run()
    assert path.read_bytes() == (tmp_path / "new.csv").read_bytes()


def test_products_of_weights_that_are_gone_are_removed(tmp_path):
    cut(tmp_path / "t.csv", at=20)
    small.job(tmp_path / "t.csv", on=small.target(digest="later"), classes=()).run()
    assert files(tmp_path) == []


@settings(max_examples=25)
@given(st.data())
def test_a_damaged_file_costs_products_and_nothing_else(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    small.job(folder / "whole.csv", classes=()).run()
    file = cut(folder / "t.csv", at=12)
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans(), label="cut short"):
        content = content[: data.draw(st.integers(0, len(content)))]
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    small.job(folder / "t.csv", classes=()).run()
    assert (folder / "t.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert files(folder) == []


def test_a_link_is_not_followed(tmp_path):
    file = cut(tmp_path / "t.csv", at=5)
    file.unlink()
    mine = tmp_path / "mine.txt"
    mine.write_text("of others")
    file.symlink_to(mine)
    small.job(tmp_path / "t.csv", classes=()).run()
    assert mine.read_text() == "of others"


def test_who_measures_the_same_row_at_once_keeps_nothing(tmp_path):
    file = cut(tmp_path / "t.csv", at=5)
    before = file.read_bytes()
    with kept_products.one_writer(file):
        rows = small.job(tmp_path / "t.csv", classes=()).run()
    assert len(rows) == 1
    assert file.read_bytes() == before


def test_a_full_disk_ends_the_keeping_and_not_the_row(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    cut(tmp_path / "t.csv", at=5)
    monkeypatch.setattr(kept_products, "_record", full)
    small.job(tmp_path / "t.csv", classes=()).run()
    monkeypatch.undo()
    small.job(tmp_path / "whole.csv", classes=()).run()
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_was_refused_is_not_kept(tmp_path, monkeypatch):
    def random(self, vector):
        return torch.randn_like(vector)

    monkeypatch.setattr(HessianOperator, "matvec", random)
    with pytest.raises(OperatorError, match="not those of one symmetric matrix"):
        small.job(tmp_path / "t.csv", classes=()).run()
    assert files(tmp_path) == []


def test_quick_rows_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_products, "WORTH", 1e9)
    with pytest.raises(Interrupted) as raised:
        small.job(tmp_path / "t.csv", classes=()).run(should_stop=after(5))
    assert files(tmp_path) == []
    assert "kept" not in str(raised.value)


@pytest.mark.parametrize(("size", "number"), [(1, signal.SIGTERM), (1, signal.SIGKILL), (2, 9)])
def test_killed_in_a_fresh_process_alone_or_with_ranks_that_share(tmp_path, size, number):
    """With ranks that share the samples: all of them take from rank 0's file, or none does."""
    (tmp_path / "slow.py").write_text(SLOW_NETWORK)
    words = ["spectrum", "--model", "slow:network", "--data", "slow:dataset", "--classes", "none",
             "--rtol", "1e-8", "--device", "cpu"]  # fmt: skip
    words += ["--shard", "samples"] if size > 1 else []

    def run(table, **environment):
        command = start_command(tmp_path, size, *words, "-o", table, **environment)
        codes = command.codes()
        taken = [int(line[6:]) for line in command.said().splitlines() if line[:6] == "taken "]
        return codes, taken

    codes, whole = run("whole.csv")
    assert codes == [0] * size
    codes, _ = run("cut.csv", CUT=str(int(number)))
    assert codes[0] == (130 if number == signal.SIGTERM else -signal.SIGKILL)
    assert files(tmp_path)
    codes, rest = run("cut.csv")
    assert codes == [0] * size
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert rest == [count - 9 for count in whole]
    assert files(tmp_path) == []
