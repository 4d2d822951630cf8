import os
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saddlescope.errors import DataError
from saddlescope.longtail.pickles import read_pickle

CONTENT = {b"data": np.arange(12, dtype=np.uint8).reshape(3, 4), b"labels": [0, 1, 2], b"e": b""}


def read(tmp_path, raw, *, max_bytes=1 << 16):
    path = tmp_path / "batch"
    path.write_bytes(raw)
    return read_pickle(path, max_bytes=max_bytes)


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4"])
def test_arrays_and_lists_of_every_protocol(tmp_path, protocol, order, dtype):
    array = np.array([[1, 2, 3], [4, 5, 6]], dtype=dtype, order=order)
    content = read(tmp_path, pickle.dumps({b"data": array, b"labels": [1]}, protocol=protocol))
    np.testing.assert_array_equal(content["data"], array)
    assert content["data"].dtype == array.dtype
    assert content["labels"] == [1]


def test_numpy_1_wrote_the_same_under_another_name(tmp_path):
    raw = pickle.dumps(CONTENT, protocol=2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray" in raw
    content = read(tmp_path, raw)
    np.testing.assert_array_equal(content["data"], CONTENT[b"data"])
    assert content["e"] == b""


def test_python_2_wrote_byte_strings(tmp_path):
    # {'data': numpy.array([[1, 2]], 'u1'), 'labels': [7]} as Python 2 with protocol 2 wrote it.
    raw = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x01K\x02\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff"
        b"\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x01\x02tbU\x06labels]K\x07au."
    )
    content = read(tmp_path, raw)
    np.testing.assert_array_equal(content["data"], np.array([[1, 2]], np.uint8))
    assert content["labels"] == [7]


def test_numpy_scalars_become_numbers(tmp_path):
    content = read(tmp_path, pickle.dumps({b"labels": [np.int64(3)]}, protocol=2))
    assert content["labels"] == [3]
    assert type(content["labels"][0]) is int


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path, protocol):
    proof = tmp_path / "ran"
    payload = {b"data": Calls(os.system, f"touch {proof}")}
    with pytest.raises(DataError, match=r"batch: refused: it calls '\w+\.system'"):
        read(tmp_path, pickle.dumps(payload, protocol=protocol))
    assert not proof.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x02cbuiltins\neval\nU\x011\x85R.",
        b"\x80\x02cnumpy\nfromfile\nU\x01x\x85R.",
        b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.",  # would allocate 16 GB
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        b"\x80\x02c_codecs\nencode\n}U\x05stateK\x01sb.",  # a state for an allowed name
        b"\x80\x02cnumpy\ndtype\nU\x01OK\x00K\x01\x87R.",  # objects are pointers
        b"\x80\x02cnumpy\ndtype\nU\x02V8K\x00K\x01\x87R.",
        b"(ios\nsystem\n.",  # INST
        b"\x80\x02cos\nsystem\n)\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"Pname\n.",  # PERSID
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo slot two thousand million places on
        b"\x80\x02\x8a\x09" + b"\xff" * 8 + b"\x01.",  # 65 bits
    ],
)
def test_what_is_not_plain_data_is_refused(tmp_path, raw):
    with pytest.raises(DataError, match="batch: refused"):
        read(tmp_path, raw)


def test_an_array_whose_bytes_do_not_fill_its_shape_is_an_error(tmp_path):
    raw = pickle.dumps({b"data": np.zeros((3, 5), np.uint8)}, protocol=2)
    with pytest.raises(DataError, match=r"an array of shape \(3, 6\) with 15 bytes"):
        read(tmp_path, raw.replace(b"K\x03K\x05\x86", b"K\x03K\x06\x86"))


def test_a_file_cut_anywhere_is_an_error(tmp_path):
    raw = pickle.dumps(CONTENT, protocol=2)
    for length in range(len(raw)):
        with pytest.raises(DataError, match="batch: not a complete pickle"):
            read(tmp_path, raw[:length])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_is_read_as_data_or_reported_in_one_line(tmp_path, data):
    raw = bytearray(pickle.dumps(CONTENT, protocol=2))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        content, message = read(tmp_path, bytes(raw)), "batch: "
    except DataError as error:
        content, message = {}, str(error)
    assert all(isinstance(key, str) for key in content)
    assert "batch: " in message
    assert "\n" not in message


def test_missing_too_large_and_not_a_dictionary(tmp_path):
    with pytest.raises(DataError, match="nowhere: missing"):
        read_pickle(tmp_path / "nowhere", max_bytes=10)
    with pytest.raises(DataError, match="bytes, more than the 10 an official file can take"):
        read(tmp_path, pickle.dumps(CONTENT, protocol=2), max_bytes=10)
    with pytest.raises(DataError, match="holds a list, not a dictionary"):
        read(tmp_path, pickle.dumps([1], protocol=2))
    with pytest.raises(DataError, match="a key of the dictionary is not text"):
        read(tmp_path, pickle.dumps({1: 2}, protocol=2))


DEEP = b")" + b"\x85" * 300_000


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x80\x02}" + DEEP + b"Ns.", "nested more than 100 levels"),
        (b"\x80\x02}U\x01a" + DEEP + b"s.", "nested more than 100 levels"),
        (b"\x80\x02}(" + b"U\x01a}" * 2000 + b"u.", "more objects than an official file"),
        (b"\x80\x02}U\x01a(" + b"N" * 60_000 + b"ls.", "more objects|not a complete"),
        (b"\x80\x02K\x01s.", "takes what is not there"),
        (b"\x80\x02s.", "takes what is not there"),
    ],
)
def test_what_would_end_the_interpreter_or_fill_memory_is_refused_unread(tmp_path, raw, why):
    with pytest.raises(DataError, match=why):
        read(tmp_path, raw, max_bytes=1 << 20 if b"N" * 100 not in raw else 1 << 16)


@pytest.mark.parametrize("where", [b"U\x02u1", b"U\x01|", b"K\x05"])
def test_an_array_described_in_megabytes_is_refused_in_a_line(tmp_path, where):
    """The product of 250,000 lengths took minutes, and a dtype of megabytes was quoted whole."""
    raw = (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01(K\x05tcnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff"
        b"\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x05abcdetb."
    )
    assert read(tmp_path, raw[:-1] + b"s.")["data"].tolist() == list(b"abcde")
    text = b"T" + (10**6).to_bytes(4, "little") + b"x" * 10**6
    long = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f" * 250_000 if where == b"K\x05" else text
    with pytest.raises(DataError, match="refused: a") as caught:
        read(tmp_path, raw[:-1].replace(where, long, 1) + b"s.", max_bytes=31_000_000)
    assert len(str(caught.value)) < 1000


def test_one_text_is_not_made_bytes_again_and_again(tmp_path):
    """620 kB took 2.6 GB: a text that is written once, and encoded thousands of times."""
    once = (
        b"X" + (60_000).to_bytes(4, "little") + b"a" * 60_000 + b"q\x01X\x06\x00\x00\x00latin1q\x02"
    )
    again = b"c_codecs\nencode\nq\x00h\x01h\x02\x86Rq\x03" + b"h\x00h\x01h\x02\x86R" * 500
    raw = b"\x80\x02}U\x01a(" + once + again + b"ls."
    with pytest.raises(DataError, match="again and again"):
        read(tmp_path, raw, max_bytes=1 << 20)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        read_pickle(tmp_path / "pipe", max_bytes=100)
