"""Measurements in README.md and docs/ are those of committed results.

A comment such as `<!-- experiments/results/growth.csv -->` (several files: separated by blanks) says where the numbers
of the next table or paragraph come from; each has to be in those files, rounded to the digits shown: as it stands, as the
mean, median or length of a column or list, or as what our own report computes from the file. A table with more than one
cell that is a decimal number is one of measurements, and has to have such a comment. In tables the first column names
the row; in paragraphs only decimal numbers are looked at. Code blocks, and tables of words, are nobody's measurements.
"""

import csv
import json
import re
from functools import cache
from pathlib import Path
from statistics import mean, median

import pytest

from experiments.benchmarks.measure import CLOSED_FORM, CROWN, Outcome
from experiments.benchmarks.report import over_attack, speedup

ROOT = Path(__file__).parents[1]
RESULTS = "experiments/results/"
DOCUMENTS = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]

NUMBER = re.compile(r"(?<![\w.^-])-?(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?(?![\w^]|\.\d)")
FIGURE = re.compile(rf"{NUMBER.pattern}( ± {NUMBER.pattern})?( ?%| of \d+)?( \([^)]*\))?")


def blocks(text):
    """Tables and paragraphs outside of code blocks, each with the files that the comment before it names."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    sources = ()
    for block in re.split(r"\n\s*\n", text):
        named = re.fullmatch(r"\s*<!-- (experiments/results/.*) -->\s*", block)
        if not named and block.strip():
            yield block.strip("\n"), sources
        sources = tuple(named.group(1).split()) if named else ()


def is_table(block):
    return block.startswith("|")


def body_cells(table):
    """Of a table, but for the header and the first column."""
    return [cell.strip() for line in table.splitlines()[2:] for cell in line.strip("|").split("|")[1:]]


def is_of_measurements(block):
    return is_table(block) and sum("." in cell and bool(FIGURE.fullmatch(cell)) for cell in body_cells(block)) > 1


def numbers(block):
    """What has to be in the files, as written."""
    if is_table(block):
        return [found for cell in body_cells(block) for found in NUMBER.findall(cell)]
    return [found for found in NUMBER.findall(block) if "." in found]


@cache
def figures(path):
    """All numbers that a file of results holds or that follow from it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return {float(found.replace(",", "")) for found in NUMBER.findall(text)}
    if path.suffix == ".json":
        return set(of_json(json.loads(text)))
    rows = list(csv.DictReader(text.splitlines()))
    columns = ([number(row[name]) for row in rows if number(row[name]) is not None] for name in rows[0])
    return {value for column in columns for value in of_list(column)} | set(of_certificates(rows))


def number(text):
    try:
        return float(text)
    except ValueError:
        return None


def of_list(values):
    return [*values, mean(values), median(values), len(values)] if values else []


def of_json(value):
    if isinstance(value, dict):
        if "methods" in value and isinstance(value["methods"], dict):
            yield from of_benchmark(value["methods"])
        for inner in value.values():
            yield from of_json(inner)
    elif isinstance(value, list):
        yield from (found for inner in value for found in of_json(inner))
        if value and all(isinstance(inner, int | float) for inner in value):
            yield from of_list(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def of_benchmark(methods):
    """The table that experiments/benchmarks/certify.py prints: shares of the attack radius, and speeds."""
    attack = {name: method["attack"] for name, method in methods.items()}
    fields = Outcome.__dataclass_fields__
    outcomes = {name: Outcome(**{f: method[f] for f in fields}) for name, method in methods.items()}
    for name, outcome in outcomes.items():
        yield over_attack(outcome, attack[name])
        yield from (speedup(outcome, outcomes[stock]) for stock in (CROWN, CLOSED_FORM) if stock in outcomes)


def of_certificates(rows):
    """The summary of `dsrna certify`."""
    if "attack_radius" in rows[0] and "correct" in rows[0]:
        correct = [row for row in rows if row["correct"] == "True"]
        radii = [float(row["radius"]) for row in correct]
        shares = [float(row["radius"]) / float(row["attack_radius"]) for row in correct]
        yield from (mean(radii), median(shares), len(correct), len(correct) - sum(radius > 0 for radius in radii))


def is_held(shown, held):
    """Whether one of the numbers is the one shown, rounded to as many digits."""
    digits, exponent = re.fullmatch(r"-?[\d,]*\.?(\d*?)(?:e([+-]?\d+))?", shown).groups()
    places = (len(digits) if "." in shown else 0) - int(exponent or 0)
    value, half = float(shown.replace(",", "")), 0.5 * 10**-places
    return any(abs(number - value) <= half * (1 + 1e-9) for number in held)


def sourced(name):
    """The blocks of a document that have a source: block, its numbers, and the numbers of its files."""
    for block, sources in blocks((ROOT / name).read_text(encoding="utf-8")):
        if sources:
            held = set().union(*(figures(ROOT / source) for source in sources))
            yield block, numbers(block), held


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tables_of_measurements_name_their_file(name):
    for block, sources in blocks((ROOT / name).read_text(encoding="utf-8")):
        if is_of_measurements(block):
            assert sources, f"{name}: which file holds the table {block.splitlines()[0]} ?"
        for source in sources:
            assert source.startswith(RESULTS) and (ROOT / source).is_file(), f"{name}: no file {source}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_file_holds_every_number(name):
    for block, shown, held in sourced(name):
        missing = [found for found in shown if not is_held(found, held)]
        assert not missing, f"{name}: {missing} of\n{block}"


def test_a_wrong_number_is_noticed():
    """Most of them, wherever it is: a file holds many numbers, and a number of two digits may be one by accident.

    Not in operators.md, which holds as many numbers as its file: that page is compared as a whole.
    """
    documents = [name for name in DOCUMENTS if name != "docs/operators.md"]
    tables = [(shown, held) for name in documents for block, shown, held in sourced(name) if is_table(block)]
    changed = [(found[:-1] + str((int(found[-1]) + 5) % 10), held) for shown, held in tables for found in shown]
    assert len(changed) > 100
    assert sum(not is_held(found, held) for found, held in changed) > len(changed) / 2


TABLE = "| a | b |\n|---|---|\n| x1 | 0.12 |\n| y | 3.40 (.1 to .5) |"


def test_blocks_know_their_comment():
    text = f"# Head\n\n<!-- {RESULTS}a.csv {RESULTS}b.json -->\n\n{TABLE}\n\nWords 1.5\nand more\n\n```\n| code |\n```\n"
    assert list(blocks(text)) == [
        ("# Head", ()),
        (TABLE, (f"{RESULTS}a.csv", f"{RESULTS}b.json")),
        ("Words 1.5\nand more", ()),
    ]


def test_what_is_a_table_of_measurements():
    assert is_of_measurements(TABLE)
    assert not is_of_measurements("| a | b |\n|---|---|\n| x | .03, where it starts |\n| y | 1.3 times |\n| 0.5 | `0.1` |")
    assert is_of_measurements("| a | b |\n|---|---|\n| x | 97.00 ± 1.00 (-) |\n| y | - (0.05) |\n| z | 1.5 % |")
    assert not is_of_measurements("0.12 and 3.40")
    assert numbers(TABLE) == ["0.12", "3.40", ".1", ".5"]
    assert numbers("In 2021, x1 had 1,234.5 at .3 of 32x32, v1.2.3, e^5, 1e-51.") == ["1,234.5", ".3"]


@pytest.mark.parametrize(
    ("shown", "number", "held"),
    [
        ("0.12", 0.1249, True),
        ("0.12", 0.126, False),
        (".00504", 0.005042, True),
        ("-0.3", -0.26, True),
        ("-0.3", 0.3, False),
        ("96", 95.6, True),
        ("1,990", 1990.4, True),
        ("1e-51", 1.16e-51, True),
        ("2e-50", 1.4e-50, False),
    ],
)
def test_rounding(shown, number, held):
    assert is_held(shown, {number}) is held


def test_what_follows_from_a_file(tmp_path):
    (tmp_path / "a.csv").write_text(
        "name,correct,radius,attack_radius\nx,True,0.2,0.4\ny,True,0.1,1.0\nz,False,0.0,0.0\n"
    )
    held = figures(tmp_path / "a.csv")
    assert all(is_held(shown, held) for shown in ("0.2", "0.15", "0.30", "0.47", "2"))  # .47: mean attack radius
    assert not any(is_held(shown, held) for shown in ("0.25", "0.16", "5"))
    (tmp_path / "b.json").write_text('{"text": "7", "flag": true, "list": [1, 2, 6], "inner": {"value": 8.5}}')
    assert figures(tmp_path / "b.json") == {1, 2, 6, 3, 8.5}
