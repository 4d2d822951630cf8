"""The text of a check: aligned, within its width, and plain about what does not agree."""

from saddlescope.reporting import check_text

EMPTY = {
    "kind": "class", "name": "9", "n": 6, "lambda_max": None, "lambda_max_lower": None,
    "lambda_max_upper": None, "lambda_max_inside": None, "lambda_min": None,
    "lambda_min_lower": None, "lambda_min_upper": None, "lambda_min_inside": None,
    "difference": None, "allowed": None, "agrees": None, "converged": None, "products": None,
    "seconds": 0.0, "note": "",
}  # fmt: skip
MEASURED = EMPTY | {
    "tool": "saddlescope", "lambda_max": 90.6130001, "lambda_max_lower": 90.61300004,
    "lambda_max_upper": 90.6139, "lambda_min": -6.4516, "lambda_min_lower": -6.569,
    "lambda_min_upper": -6.451, "converged": True, "products": 36, "seconds": 2.5,
}  # fmt: skip
DENSE = EMPTY | {"tool": "dense", "note": "not used: " + "far too many parameters " * 6}
POWER = EMPTY | {
    "tool": "pyhessian", "lambda_max": 91.0, "lambda_max_inside": False, "agrees": False,
    "products": 9,
}  # fmt: skip
SYMMETRY = EMPTY | {"tool": "symmetry", "difference": 4.4e-7, "allowed": 0.0011, "agrees": True}
PRODUCT = EMPTY | {
    "tool": "double-backward product", "difference": 0.2, "allowed": 0.0011, "agrees": False
}  # fmt: skip


def test_lines():
    text = check_text([MEASURED, DENSE, POWER, SYMMETRY, PRODUCT])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("class 9, 6 samples")
    assert lines[1].split() == ["saddlescope", "90.613", "−6.4516", "36", "2.5"]
    assert "λ_min [−6.569, −6.451]" in lines[2]
    assert lines[3].split() == ["dense", "—", "—", "—", "0.0"]
    assert "not used" in lines[4]
    (power,) = (line for line in lines if "pyhessian" in line)
    assert power.split() == ["pyhessian", "91.000", "NO", "—", "9", "0.0"]
    assert lines[-2].split() == ["symmetry", "4.4e-07", "0.0011", "agrees"]
    assert lines[-1].endswith("DOES NOT AGREE")


def test_an_error_that_shows_in_the_digits_is_shown():
    vague = POWER | {"lambda_max": 0.036, "lambda_max_lower": -0.616, "lambda_max_upper": 0.688}
    sharp = POWER | {"lambda_max_lower": 90.9999, "lambda_max_upper": 91.0001}
    lines = check_text([MEASURED, vague, sharp]).splitlines()
    (error,) = (line for line in lines if "own error" in line)
    assert error.strip() == "own error: λ_max ± 0.65"


def test_one_table_a_row_of_the_spectrum():
    text = check_text([MEASURED, MEASURED | {"kind": "group", "name": "tail" * 20}])
    first, second = text.split("\n\n")
    assert first.startswith("class 9")
    assert second.startswith("group tailtail")
    assert "differs by" not in text
    assert max(map(len, text.splitlines())) <= 100
