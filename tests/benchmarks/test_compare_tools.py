"""Every tool gives the ends of a dense Hessian when given enough; rehearsals give what they do."""

import pytest
import torch

from benchmarks.compare import TOOLS, Cases, Problem, find_truth, installed
from benchmarks.compare.sweep import Rehearsal, sweep
from benchmarks.compare.tools import Answer, label
from benchmarks.compare.truth import Truth
from saddlescope.curvature import Programs

ENOUGH = {
    "saddlescope": {"rtol": 1e-3},
    "saddlescope (bare)": {"rtol": 1e-3},
    "hessian-eigenthings": {"max_iter": 60, "reorthogonalize": True},
    "hessian-eigenthings (finite differences)": {"max_iter": 60, "reorthogonalize": True},
    "curvlinops + SciPy": {"tol": 1e-3, "ncv": 30},
    "pyhessian (shifted loss)": {"tol": 1e-8, "maxIter": 3000},
    "pyhessian (λ_max only)": {"tol": 1e-6, "maxIter": 300},
}


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Cases().problem("mlp")


@pytest.fixture(scope="module")
def truth(problem) -> Truth:
    return find_truth(problem)


def test_every_tool_is_tried_here():
    assert set(ENOUGH) == set(TOOLS)


@pytest.mark.parametrize("key", TOOLS)
def test_it_finds_the_ends_of_a_dense_hessian(key, problem, truth):
    tool = TOOLS[key]
    if not installed(tool):
        pytest.skip(f"{tool.package} is not installed")
    answer = tool.ends(problem.fresh(), ENOUGH[key], 0)
    assert truth.meets(answer, both=tool.gives_both)
    assert answer.products > 0
    assert answer.claims
    assert (answer.lambda_min is None) == (not tool.gives_both)
    if key.startswith("saddlescope"):
        (_, highest), (lowest, _) = answer.bounds
        assert lowest <= truth.lambda_min
        assert truth.lambda_max <= highest


@pytest.mark.parametrize("key", [key for key, tool in TOOLS.items() if tool.rehearses])
def test_a_rehearsal_gives_what_the_tool_gives(key, problem):
    tool = TOOLS[key]
    if not installed(tool):
        pytest.skip(f"{tool.package} is not installed")
    rehearsal = Rehearsal(problem)
    own = tool.ends(problem.fresh(), ENOUGH[key], 3)
    for _ in range(2):  # the second time from memory alone
        rehearsed = tool.ends(problem.fresh(), ENOUGH[key], 3, multiply=rehearsal)
        assert rehearsed.lambda_max == pytest.approx(own.lambda_max, rel=1e-4)
        assert rehearsed.lambda_min == pytest.approx(own.lambda_min, rel=1e-3)


@pytest.mark.parametrize("key", TOOLS)
def test_a_brief_setting_is_two_products(key, problem):
    tool = TOOLS[key]
    if not installed(tool):
        pytest.skip(f"{tool.package} is not installed")
    least = 4 if key == "pyhessian (shifted loss)" else 2
    assert tool.ends(problem.fresh(), tool.brief, 0).products == least


def test_finite_differences_take_the_step_that_is_asked_for(problem, truth):
    tool = TOOLS["hessian-eigenthings (finite differences)"]
    if not installed(tool):
        pytest.skip(f"{tool.package} is not installed")
    coarse = tool.ends(problem.fresh(), {"max_iter": 20, "fd_eps": 3.0}, 0)
    assert truth.errors(coarse)[0] > 0.01
    fine = tool.ends(problem.fresh(), {"max_iter": 20, "fd_eps": 1e-2}, 0)
    assert truth.errors(fine)[0] < 1e-3


@pytest.mark.parametrize(("streamed", "retained"), [(True, 0.0), (False, 1.0)])
def test_streamed_retains_nothing(problem, streamed, retained, monkeypatch):
    from benchmarks.compare.tools import Instrument, instrument

    made = []

    class Watched(instrument.HessianOperator):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(instrument, "HessianOperator", Watched)
    Instrument(streamed=streamed).ends(problem.fresh(), {"max_matvecs": 2}, 0)
    assert made[0].retained == retained


def test_the_instrument_shares_programs(problem):
    from benchmarks.compare.tools import Instrument

    programs = Programs("traced")
    tool = Instrument(programs)
    tool.ends(problem, {}, 0)
    assert programs.traced


def test_labels():
    assert label({}) == "defaults"
    assert label({"tol": 0.1, "ncv": 20}) == "tol=0.1, ncv=20"


class Fake:
    """A tool whose answers are known: right from a number of products on."""

    key, package = "fake", "saddlescope"
    gives_both = rehearses = True
    brief, defaults = {}, [{}]

    def __init__(self, settings, *, ordered, own=None):
        self._settings, self.ordered, self._own = settings, ordered, own or (lambda setting: True)
        self.calls = []

    def settings(self):
        return self._settings

    def refuses(self, problem):
        return None

    def ends(self, problem, setting, seed, *, multiply=None):
        self.calls.append((setting["m"], seed, multiply is not None))
        if setting.get("fails"):
            raise ValueError("no such thing\nsecond line")
        right = setting["right"] and (multiply is not None or self._own(setting))
        error = 0.005 if right else 0.5
        return Answer(1.0 + error, -1.0 - error, setting["m"], "nothing")


EXACT = Truth(1.0, -1.0, 0.0, 0.0, "by hand", 0)


def settings(*pairs):
    return [{"m": m, "right": right} for m, right in pairs]


class TestSweep:
    def test_of_ordered_settings_the_first_right_one(self, problem):
        tool = Fake(settings((5, False), (10, True), (20, True)), ordered=True)
        found = sweep(problem, tool, EXACT, range(2))
        assert found["setting"]["m"] == 10
        assert (20, 0, True) not in tool.calls
        # A wrong setting is dropped at its first seed.
        assert (5, 1, True) not in tool.calls

    def test_of_others_the_one_of_fewest_products(self, problem):
        tool = Fake(settings((30, True), (10, False), (20, True)), ordered=False)
        assert sweep(problem, tool, EXACT, range(2))["setting"]["m"] == 20

    def test_what_the_tool_itself_does_not_confirm_is_dropped(self, problem):
        for ordered in (True, False):
            tool = Fake(
                settings((10, True), (20, True)), ordered=ordered, own=lambda s: s["m"] > 10
            )
            found = sweep(problem, tool, EXACT, range(2))
            assert found["setting"]["m"] == 20
            assert any(not row["rehearsed"] and row["products"] == 10 for row in found["tried"])

    def test_none_is_right(self, problem):
        found = sweep(problem, Fake(settings((5, False)), ordered=True), EXACT, range(2))
        assert found["setting"] is None
        assert "no setting" in found["reason"]

    def test_a_tool_that_fails_says_why(self, problem):
        tool = Fake([{"m": 1, "right": True, "fails": True}], ordered=True)
        found = sweep(problem, tool, EXACT, range(1))
        assert found["setting"] is None
        assert found["reason"] == "ValueError: no such thing"


class TestTruth:
    def test_a_certified_run_contains_the_dense_ends(self, problem, truth, monkeypatch):
        monkeypatch.setattr("benchmarks.compare.truth.DENSE_LIMIT", 10)
        run = find_truth(problem)
        assert "certified" in run.means
        assert abs(run.lambda_max - truth.lambda_max) <= run.max_error
        assert abs(run.lambda_min - truth.lambda_min) <= run.min_error
        assert run.min_error <= 2.1e-3 * abs(run.lambda_min)

    def test_eigenvectors_taken_to_float64_contain_the_dense_ends(
        self, problem, truth, monkeypatch
    ):
        monkeypatch.setattr("benchmarks.compare.truth.DENSE_LIMIT", 10)
        monkeypatch.setattr("benchmarks.compare.truth.LARGE", 10)
        run = find_truth(problem)
        assert "eigenvectors in float64" in run.means
        rounding = 1e-9
        # A Rayleigh quotient lies inside the spectrum; the outer bound lies outside.
        assert -rounding <= truth.lambda_max - run.lambda_max <= run.max_error + rounding
        assert -rounding <= run.lambda_min - truth.lambda_min <= run.min_error + rounding
        assert run.min_error <= 2.1e-3 * abs(run.lambda_min)

    @pytest.mark.parametrize(
        ("bottom", "error", "right"),
        [
            (-1.0, 0.008, True),
            (-1.005, 0.005, True),
            (-0.995, 0.013, False),
            (-1.011, 0.011, False),
        ],
    )
    def test_an_answer_is_right_wherever_the_truth_lies(self, bottom, error, right):
        """λ_min lies between −1.008 and −1: a quotient never leaves the spectrum."""
        vague = Truth(1.0, -1.0, 0.0, 0.008, "by hand", 0)
        answer = Answer(1.0, bottom, 1, "nothing")
        assert vague.errors(answer)[1] == pytest.approx(error)
        assert vague.meets(answer) is right

    def test_the_upper_end_lies_above_its_quotient(self):
        vague = Truth(1.0, -1.0, 0.008, 0.0, "by hand", 0)
        assert vague.errors(Answer(1.005, -1.0, 1, "nothing"))[0] == pytest.approx(0.005)
        assert vague.errors(Answer(0.995, -1.0, 1, "nothing"))[0] == pytest.approx(0.013)

    def test_a_missing_end_is_not_right(self):
        half = Answer(1.0, None, 1, "nothing")
        assert not EXACT.meets(half)
        assert EXACT.meets(half, both=False)
        assert not EXACT.meets(Answer(None, -1.0, 1, "nothing"))


def test_tools_leave_the_problem_as_it_was(problem):
    before = {key: value.clone() for key, value in problem.model.state_dict().items()}
    for tool in TOOLS.values():
        if installed(tool):
            tool.ends(problem.fresh(), tool.brief, 0)
    assert all(torch.equal(before[key], value) for key, value in problem.model.state_dict().items())
    assert all(parameter.grad is None for parameter in problem.model.parameters())
