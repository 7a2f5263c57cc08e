"""VNN-LIB: what is written is what is meant, in whatever way it is written; rounding only makes more unsafe."""

import gzip
import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verify import Ball, Box, Case, Halfspaces, InputError, Property, parse_vnnlib, read_vnnlib, vnnlib_text

DECLARED = "(declare-const X_0 Real)(declare-const X_1 Real)\n(declare-const Y_0 Real) (declare-const Y_1 Real)"
BOX = "(assert (<= X_0 1)) (assert (>= X_0 -0.5)) (assert (<= 0 X_1)) (assert (>= 2.5e0 X_1))"


def parsed(asserts: str, box: str = BOX) -> Property:
    return parse_vnnlib(f"; a comment with (\n{DECLARED}\n{box}{asserts}")


def sets(wanted: Property):
    return [[(part.rows.tolist(), part.limits.tolist()) for part in case.unsafe] for case in wanted.cases]


FORMS = {
    "(assert (<= Y_0 Y_1))": [[([[1, -1]], [0])]],
    "(assert (>= Y_0 Y_1))": [[([[-1, 1]], [0])]],
    "(assert (<= Y_0 3.5))": [[([[1, 0]], [3.5])]],
    "(assert (>= 3.5 Y_0))": [[([[1, 0]], [3.5])]],
    "(assert (<= Y_0 Y_1)) (assert (>= Y_0 1))": [[([[1, -1], [-1, 0]], [0, -1])]],
    "(assert (and (<= Y_0 Y_1) (>= Y_0 1)))": [[([[1, -1], [-1, 0]], [0, -1])]],
    "(assert (or (<= Y_0 1) (and (>= Y_1 2))))": [[([[1, 0]], [1]), ([[0, -1]], [-2])]],
    "(assert (or (and (<= Y_0 1)) (or (<= Y_1 1))))": [[([[1, 0]], [1]), ([[0, 1]], [1])]],
    "(assert (or (<= Y_0 1))) (assert (or (<= Y_1 1) (<= Y_1 2)))": [[([[1, 0], [0, 1]], [1, 1]), ([[1, 0], [0, 1]], [1, 2])]],
    "(assert (<= (- (* 2 Y_0) (+ Y_1 1)) (- Y_0)))": [[([[3, -1]], [1])]],
    "(assert (<= (+ (* 0.1 Y_0) (* Y_1 0.3)) 1.0))": [[([[1, 3]], [10])]],
}  # fmt: skip


@pytest.mark.parametrize("text", FORMS)
def test_the_forms_of_the_competition(text):
    wanted = parsed(text)
    assert sets(wanted) == FORMS[text]
    region = wanted.cases[0].region
    assert (region.lower.tolist(), region.upper.tolist()) == ([[-0.5, 0]], [[1, 2.5]])


def test_boxes_in_the_disjunction_make_cases_and_equal_ones_one():
    left, right = "(>= X_0 0) (<= X_0 1)", "(>= X_0 2) (<= X_0 3)"
    text = f"(assert (or (and {left} (<= Y_0 1)) (and {right} (<= Y_0 1)) (and {left} (<= Y_1 1))))"
    wanted = parsed(text, box="(assert (<= X_1 1)) (assert (>= X_1 0)) ")
    assert [case.region.lower.tolist() for case in wanted.cases] == [[[0, 0]], [[2, 0]]]
    assert [len(case.unsafe) for case in wanted.cases] == [2, 1]


def test_an_empty_alternative_is_passed_over_and_a_file_of_them_refused():
    kept = parsed("(assert (or (and (>= X_0 2) (<= Y_0 1)) (<= Y_1 1)))")
    assert sets(kept) == [[([[0, 1]], [1])]]
    with pytest.raises(InputError, match="X_0 has a lower bound above"):
        parsed("(assert (>= X_0 2)) (assert (<= Y_0 1))")


decimals = st.decimals(-1000, 1000, allow_nan=False, places=22)


@given(low=decimals, high=decimals, limit=decimals)
def test_rounding_makes_the_unsafe_set_larger_by_less_than_a_digit(low, high, limit):
    low, high = sorted((low, high))
    box = f"(assert (>= X_0 {low:f})) (assert (<= X_0 {high:f})) (assert (>= X_1 0)) (assert (<= X_1 0))"
    (case,) = parsed(f"(assert (<= Y_0 {limit:f})) (assert (>= Y_1 {limit:f}))", box).cases
    lower, upper = float(case.region.lower[0, 0]), float(case.region.upper[0, 0])
    above, below = case.unsafe[0].limits.tolist()
    for rounded, exact, outward in ((-lower, -low, math.inf), (upper, high, math.inf), (above, limit, math.inf), (below, -limit, math.inf)):
        assert Fraction(rounded) >= Fraction(exact)
        assert Fraction(math.nextafter(rounded, -outward)) < Fraction(exact)


@given(st.data())
def test_what_is_written_is_read_back_to_the_last_bit(data):
    floats = st.floats(-1e9, 1e9) | st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 0.1])
    tensor = lambda *shape: torch.tensor(data.draw(st.lists(floats, min_size=math.prod(shape), max_size=math.prod(shape)))).double().view(shape)  # noqa: E731

    def case() -> Case:
        ends = torch.stack([tensor(1, 2), tensor(1, 2)]).sort(0).values
        rows = [tensor(data.draw(st.integers(1, 2)), 3) for _ in range(data.draw(st.integers(1, 2)))]
        return Case(Box(*ends), tuple(Halfspaces(row + (row == 0).all(1, keepdim=True), tensor(len(row))) for row in rows))

    wanted = Property(tuple(case() for _ in range(data.draw(st.integers(1, 2)))))
    back = parse_vnnlib(vnnlib_text(wanted, "a comment\nof two lines"))
    flat = lambda given: {  # noqa: E731
        (tuple(case.region.lower[0].tolist()), tuple(case.region.upper[0].tolist()), str(part.rows.tolist()).replace("-0.0", "0.0"), str(part.limits.tolist()).replace("-0.0", "0.0"))
        for case in given.cases
        for part in case.unsafe
    }  # fmt: skip
    assert flat(back) == flat(wanted)


def test_files_plain_and_gzip(tmp_path):
    text = f"{DECLARED}{BOX}(assert (<= Y_0 Y_1))"
    (tmp_path / "a.vnnlib").write_text("\ufeff" + text)
    (tmp_path / "b.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    assert sets(read_vnnlib(tmp_path / "a.vnnlib")) == sets(read_vnnlib(tmp_path / "b.vnnlib.gz")) == [[([[1, -1]], [0])]]


def test_a_round_ball_has_no_text():
    wanted = Property.robust(Ball(torch.zeros(1, 2), 0.1, "l2"), 0, 3)
    with pytest.raises(InputError, match="no l2 ball"):
        vnnlib_text(wanted)


WRONG = {
    "(assert (<= Y_0 Y_1)": "parentheses",
    "(assert (<= Y_0 Y_1)))": "too many",
    "(assert (<= Y_0 Y_2))": "Y_2 is not declared",
    "(assert (<= Z_0 Y_1))": "'Z_0'|Z_0 is neither",
    "(assert (< Y_0 Y_1))": "is no constraint",
    "(assert (not (<= Y_0 Y_1)))": "is no constraint",
    "(assert (<= Y_0))": "is no constraint",
    "(assert (or))": "is no constraint",
    "(assert Y_0)": "is no constraint",
    "(assert)": "neither",
    "(check-sat)": "neither",
    "stray": "neither",
    "(assert (<= (* Y_0 Y_1) 0))": "not linear",
    "(assert (<= (/ Y_0 2) 0))": "no linear term",
    "(assert (<= X_0 X_1))": "X_0, X_1",
    "(assert (<= X_0 Y_1))": "X_0, Y_1",
    "(assert (<= 1 2))": "numbers alone",
    "(assert (<= Y_0 1e999999999))": "beyond what float64",
    "(assert (<= Y_0 1e-999999999))": "beyond what float64",
    "(assert (<= Y_0 1e9999999999999))": "neither a number",
    "(assert (<= Y_0 nan))": "neither a number",
    "(assert (<= Y_0 inf))": "neither a number",
    "(assert (<= (+ (* 0.1234567890123456789 Y_0) (* 0.3 Y_1)) 1))": "more digits",
    "(assert (<= X_0 1))": "nothing of the outputs",
    "(assert (<= Y_00 1))": "'Y_00'|Y_00 is neither",
    f"(assert (<= Y_{'1' * 5000} 1))": "is neither",
    f"(assert (<= Y_0 {'1' * 10**6}_))": "is neither",
    "(assert (<= Y_0 (* 1e300 1e300)))": "beyond what float64",
    "(declare-const X_2 Real) (assert (<= (* 1e-300 X_2) 1e300)) (assert (>= X_2 0)) (assert (<= Y_0 1))": "beyond what float64",
    "(declare-const X_5 Real) (assert (<= Y_0 Y_1))": "X_2 is missing",
    "(declare-const X_0 Real) (assert (<= Y_0 Y_1))": "X_0 is declared twice",
    "(declare-const X_2 Int) (assert (<= Y_0 Y_1))": "declared Int",
    "(declare-const Q Real) (assert (<= Y_0 Y_1))": "Q is neither",
    "(declare-const X_2 Real) (assert (<= Y_0 Y_1))": "X_2 has no lower bound",
    "(declare-const X_2 Real) (assert (>= X_2 0)) (assert (<= Y_0 Y_1))": "X_2 has no upper bound",
    "(assert " + "(or " * 80 + "(<= Y_0 Y_1)" + ")" * 81: "within each other",
    "(assert (or (<= Y_0 0) (<= Y_0 1)))" * 20: "conjunctions",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_what_is_no_property_is_refused_in_words(text):
    with pytest.raises(InputError, match=WRONG[text]) as caught:
        parsed(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


SECOND = """(vnnlib-version <2.0>) ; a comment
(declare-network a_net (declare-input in real [1,2]) (declare-output out float32 [1, 2]))
(assert (<= in[0,0] 1.0)) (assert (>= in [0, 0] -0.5)) (assert (<= 0.0 in[0,1])) (assert (>= 2.5 in[0,1]))
"""
SECOND_FORMS = {
    "(assert (<= out[0,0] out[0,1]))": [[([[1, -1]], [0])]],
    "(assert (or (<= out[0,0] 1.0) (and (>= out[0,1] 2.0) (>= out [0, 0] 0.0))))": [
        [([[1, 0]], [1]), ([[0, -1], [-1, 0]], [-2, 0])]
    ],
    "(assert (== out[0,0] 3.5))": [[([[1, 0], [-1, 0]], [3.5, -3.5])]],
    "(assert (<= (- (* 2.0 0.5 out[0,0] 2.0) out[0,1] 1.0) (- out[0,0])))": [[([[3, -1]], [1])]],
}


@pytest.mark.parametrize("text", SECOND_FORMS)
def test_version_2_says_the_same_of_elements_by_their_indices(text):
    wanted = parse_vnnlib(SECOND + text)
    assert sets(wanted) == SECOND_FORMS[text]
    region = wanted.cases[0].region
    assert (region.lower.tolist(), region.upper.tolist()) == ([[-0.5, 0]], [[1, 2.5]])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_version_2_counts_elements_as_torch_flattens_them(sizes, data):
    places = list(itertools.product(*map(range, sizes)))
    chosen = data.draw(st.sampled_from(places))
    expected = torch.zeros(sizes, dtype=torch.float64)
    expected[chosen] = 1
    box = "".join(f"(assert (>= X{[*place]} 0.0)) (assert (<= X{[*place]} {int(place == chosen)}.0))" for place in places)
    text = f"(vnnlib-version <2.1>)(declare-network n (declare-input X real {sizes}) (declare-output Y real []))"
    (case,) = parse_vnnlib(f"{text}{box}(assert (<= Y 0.0))").cases
    assert torch.equal(case.region.upper.flatten(), expected.flatten())
    assert [size for size in case.region.upper.shape if size > 1] == [size for size in sizes if size > 1]


def random_property(draw) -> Property:
    floats = st.floats(-1e9, 1e9) | st.sampled_from([0.0, 5e-324, 1e-300, 0.1])
    shape = draw(st.sampled_from([(1, 3), (1, 1, 2, 2)]))
    ends = torch.tensor([draw(st.lists(floats, min_size=math.prod(shape), max_size=math.prod(shape))) for _ in range(2)])
    lower, upper = ends.double().sort(0).values.view(2, *shape)
    unsafe = [Halfspaces(torch.tensor([[1.0, draw(floats)]]), torch.tensor([draw(floats)])) for _ in range(draw(st.integers(1, 3)))]
    return Property((Case(Box(lower, upper), tuple(unsafe)),))


@given(st.data())
def test_version_2_is_read_back_to_the_last_bit_and_by_the_standards_own_parser(data):
    wanted = random_property(data.draw)
    text = vnnlib_text(wanted, "a comment", version=2)
    back = parse_vnnlib(text)
    for side in ("lower", "upper"):
        assert torch.equal(getattr(back.cases[0].region, side), getattr(wanted.cases[0].region, side))
    assert sorted(sets(back)[0]) == sorted(sets(wanted)[0])
    standard = pytest.importorskip("vnnlib")
    query = standard.parse_query_string(text)
    assert [node.shape for node in (query.networks[0].inputs[0], query.networks[0].outputs[0])] == [
        list(wanted.cases[0].region.lower.shape), [1, 2],
    ]  # fmt: skip
    assert len(query.assertions) == 2 * wanted.inputs + 1


def test_axes_in_another_order_are_refused():
    wanted = Property.robust(Box(torch.zeros(1, 4, 4, 3), torch.ones(1, 4, 4, 3)), 0, 2)
    assert wanted.shaped((48,)).inputs == wanted.shaped((1, 4, 4, 3)).inputs == 48
    with pytest.raises(InputError, match="inputs of shape"):
        wanted.shaped((3, 4, 4))


NETWORK = "(declare-network n (declare-input X real [2]) (declare-output Y real [2]))"
WRONG_SECOND = {
    "(vnnlib-version <3.0>)" + NETWORK: "<3.0> is not known",
    "(vnnlib-version 2.0)" + NETWORK: "2.0 is not known",
    "(vnnlib-version)" + NETWORK: "has to follow",
    "(vnnlib-version <2.0>)": "has to follow",
    "(vnnlib-version <2.0>)" + NETWORK + NETWORK: "one network",
    "(vnnlib-version <2.0>)" + NETWORK + "(declare-const X_0 Real)": "one network",
    "(vnnlib-version <2.0>)" + NETWORK.replace("(declare-output", "(declare-hidden Z real [2] \"z\") (declare-output"): "known",
    "(vnnlib-version <2.0>)" + NETWORK.replace("(declare-input", "(equal-to m) (declare-input"): "known",
    "(vnnlib-version <2.0>)" + NETWORK.replace("Y", "X"): "another name",
    "(vnnlib-version <2.0>)" + NETWORK.replace("real [2]", "int8 [2]"): "declared int8",
    "(vnnlib-version <2.0>)" + NETWORK.replace("[2]", "[n]"): r"declared real\[n\]",
    "(vnnlib-version <2.0>)" + NETWORK.replace("[2]", "[0]"): "fixed shape",
    "(vnnlib-version <2.0>)" + NETWORK.replace("[2]", "[99999,99999]"): "more than 10000000",
    "(vnnlib-version <2.0>)" + NETWORK.replace("X", "X-1"): "is no name",
    **{
        f"(vnnlib-version <2.0>){NETWORK}(assert (<= {left} 1.0))": words
        for left, words in {
            "Z[0]": "no element of a declared", "X_0": "no element of a declared", "X[2]": r"shape \[2\]", "X": r"shape \[2\]",
            "X[0,0]": r"shape \[2\]", "X[-1]": "no element", "X[]": "no element", "[0]": "is no constraint", "(X 1)": "no linear term",
            "((+) 1)": "neither a constraint nor", "(* 1e300 1e300 Y[0])": "beyond what",
        }.items()
    },
    f"(vnnlib-version <2.0>){NETWORK}(assert (< X[0] 1.0))": "is no constraint",
    f"(vnnlib-version <2.0>){NETWORK}(assert (!= X[0] 1.0))": "is no constraint",
    f"(vnnlib-version <2.0>){NETWORK}(assert (<= Y[0] 1.0))": "X_0 has no lower bound",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG_SECOND, ids=range(len(WRONG_SECOND)))
def test_what_is_no_property_in_version_2_is_refused_in_words(text):
    with pytest.raises(InputError, match=WRONG_SECOND[text]) as caught:
        parse_vnnlib(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
