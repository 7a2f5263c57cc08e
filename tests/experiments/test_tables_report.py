"""Tables from the long CSV: the paper's figures, our means beside them, every output format."""

import csv
import json
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

import experiments.tables.report
from experiments.tables.cells import cells as wanted_cells
from experiments.tables.published import COST_RATIO, GPU_DAYS, PATH, TABLES, published
from experiments.tables.render import escape
from experiments.tables.report import main, report
from experiments.tables.results import COLUMNS, COST, blocks, number
from experiments.tables.scale import load_scale
from verify.checks.errors import InputError

COMMITTED = sorted((Path(__file__).parents[2] / "experiments" / "results" / "tables").iterdir())
DSRNA = ["DSRNA-CB", "DSRNA-Jacobian"]
ADV = ["RobNet-large", "SDARTS-ADV", "PC-DARTS-ADV"]
EARLY = "DSRNA-CB (early stop, batch 64)"
ATTACKS = ["PGD (100)", "FGSM", "C&W", "AutoAttack (linf)", "AutoAttack (l2)"]
SHAPES = {
    1: (
        ["cifar10"],
        ["RobNet-large", "RobNet-free", "SDARTS-ADV", "PC-DARTS-ADV", *DSRNA, "DSRNA-Combined"],
        ["PGD (10)", "PGD (20)", *ATTACKS],
    ),
    2: (
        ["cifar10"],
        """NASNet-A,AmoebaNet-B,PNAS,ENAS,DARTS (1st),DARTS (2nd),SNAS (moderate),ProxylessNAS,ASAP,R-DARTS (L2),DARTS+,
        P-DARTS,PC-DARTS,RobNet-large,RobNet-free,SDARTS-RS,SDARTS-ADV,PC-DARTS-ADV,DSRNA-CB,DSRNA-Jacobian,
        DSRNA-Combined""".replace("\n        ", "").split(","),
        ["Test accuracy", "Params (M)", GPU_DAYS, "Search method"],
    ),
    3: (["imagenet"], [*ADV, *DSRNA], ["Without attack", *ATTACKS, "Params (M)"]),
    4: (["mnist"], [*ADV, *DSRNA, "DSRNA-Combined"], ["Without attack", *ATTACKS]),
    5: (["mnist", "cifar10"], [*ADV, *DSRNA], ["Certified linf"]),
    6: (["mnist", "cifar10"], [*ADV, *DSRNA], ["Certified l2"]),
}


def write(path, lines):
    """A long CSV; a line is a dict of what differs from the default."""
    default = {
        "table": 5,
        "scale": "smoke",
        "protocol": "paper",
        "row": "DSRNA-CB",
        "seed": 0,
        "dataset": "mnist",
        "channels": "",
        "column": "Certified linf",
        "domain": "free",
        "value": 0.01,
        "images": 20,
        "seconds": 2.0,
        "device": "cpu_1 & co",
    }
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**default, **line} for line in lines)
    return path


def values(row, column, *by_seed, **others):
    return [{"row": row, "column": column, "seed": seed, "value": v, **others} for seed, v in enumerate(by_seed)]


@pytest.fixture
def results(tmp_path):
    return write(
        tmp_path / "results.csv",
        [
            *values("DSRNA-CB", "Certified linf", 0.012, 0.018, 0.015),
            *values("DSRNA-CB", "Without attack", 96.0, 97.0, 98.0, images=500),
            *values("SDARTS-ADV", "Certified linf", 0.010, 0.011, 0.012),
            *values("Random search", "Certified linf", 0.02, images=10, seconds=""),
            *values("Random search", "Without attack", ""),
        ],
    )


def cells(text, start):
    """Of the first Markdown row that starts so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("table", TABLES)
def test_every_row_and_column_of_the_paper_is_there(table):
    datasets, rows, columns = SHAPES[table]
    figures = [f for f in published(table) if f.row != EARLY and f.column != COST_RATIO]
    assert [(f.dataset, f.row, f.column) for f in figures] == [(d, r, c) for d in datasets for r in rows for c in columns]
    for figure in figures:
        robust_unknown = figure.column in ("Params (M)", GPU_DAYS, "Search method")
        assert figure.mean is not None or robust_unknown
        if figure.mean is None or robust_unknown:
            continue
        assert 0 < figure.mean < (1 if "Certified" in figure.column else 100)
        assert figure.deviation is None or 0 < figure.deviation < 1
        # deviations stand with averages of five runs, and their digits are those of the mean
        assert figure.deviation is None or figure.deviation.as_tuple().exponent == figure.mean.as_tuple().exponent
        if "five runs" in figure.note:
            assert figure.deviation is not None


def test_the_figures_are_those_of_the_paper_where_they_are_well_known():
    found = {(f.table, f.dataset, f.row, f.column): str(f) for table in TABLES for f in published(table)}
    assert found[1, "cifar10", "DSRNA-Combined", "AutoAttack (l2)"] == "64.51 ± 0.12"
    assert found[3, "imagenet", "DSRNA-CB", "Without attack"] == "75.84 ± 0.11"
    assert found[4, "mnist", "DSRNA-CB", "C&W"] == "94.02 ± 0.08"
    assert found[5, "mnist", "DSRNA-CB", "Certified linf"] == "0.0526"
    assert found[6, "cifar10", "DSRNA-CB", "Certified l2"] == "0.0412"
    assert found[1, "cifar10", EARLY, "PGD (100)"] == "57.82"
    assert found[2, "cifar10", "ProxylessNAS", "Params (M)"] == "-"


def test_published_costs_are_ratios_to_darts_first_order():
    ratios = {f.row: f.mean for f in published(2) if f.column == COST_RATIO}
    assert (ratios["DARTS (1st)"], ratios["DSRNA-CB"], ratios["PC-DARTS"]) == (1, Decimal("2.67"), Decimal("0.07"))
    assert "RobNet-large" not in ratios  # the paper gives none


def test_no_figure_is_there_twice():
    with PATH.open(encoding="utf-8") as file:
        keys = [tuple(line[:4]) for line in csv.reader(file)]
    assert len(keys) == len(set(keys))


def test_a_cell_has_mean_deviation_and_the_papers_figure(results, tmp_path):
    report(results, 5, tmp_path)
    text = (tmp_path / "table5.md").read_text(encoding="utf-8")
    assert cells(text, "method") == ["method", "seeds", "Without attack", "Certified linf", "device time (s)"]
    assert cells(text, "DSRNA-CB") == ["DSRNA-CB", "3", "97.00 ± 1.00 (-)", "0.0150 ± 0.0030 (0.0526)", "12.0"]
    assert cells(text, "SDARTS-ADV") == ["SDARTS-ADV", "3", "-", "0.0110 ± 0.0010 (0.0471)", "6.0"]
    assert cells(text, "Random search") == ["Random search", "1", "-", "0.0200 (-)", "-"]
    assert cells(text, "RobNet-large") == ["RobNet-large", "-", "-", "- (0.0325)", "-"]
    assert cells(text, "images") == ["images", "", "500", "10-20", ""]
    assert "Seeds 0, 1, 2; device: cpu_1 & co; the paper's figures: mnist." in text
    assert "Certified radii: perturbed pixels may leave [0,1] (free domain)." in text
    assert "Another data set" not in text
    assert "| DSRNA-CB | Certified linf | 20 | 0.012 | 0.018 | 0.015 |" in text  # every seed
    assert "| Random search | Certified linf | 10 | 0.02 | - | - |" in text


def test_comparisons_are_in_the_text(results, tmp_path):
    report(results, 5, tmp_path)
    text = (tmp_path / "table5.md").read_text(encoding="utf-8").split("### Is it better?")[1]
    assert cells(text, "DSRNA-CB minus") == ["DSRNA-CB minus", "Certified linf"]  # no baseline has clean accuracy
    assert re.fullmatch(r"\+0.004 \[\+0.002, \+0.007\], p = 0.25", cells(text, "SDARTS-ADV")[1])
    assert cells(text, "Random search")[1] == "-0.008, one seed: no interval"
    assert "DSRNA-Jacobian minus" not in text


def test_every_number_of_ours_is_in_the_csv_or_follows_from_it(tmp_path):
    """With values that no constant of the text equals, every decimal number is a value, a statistic or the paper's."""
    results = write(tmp_path / "one.csv", values("Random search", "Certified linf", 0.0777, seconds=""))
    report(results, 5, tmp_path)
    text = (tmp_path / "table5.md").read_text(encoding="utf-8")
    paper = {str(f.mean) for f in published(5)}
    assert set(re.findall(r"\d+\.\d+", text)) - paper == {"0.0777"}


def test_the_wide_csv_holds_the_cells(results, tmp_path):
    report(results, 5, tmp_path)
    with (tmp_path / "table5.csv").open(encoding="utf-8") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*ADV, *DSRNA, "Random search"]
    row = rows["DSRNA-CB"]
    assert float(row["Certified linf"]) == pytest.approx(0.015)
    assert float(row["Certified linf: deviation"]) == pytest.approx(0.003)
    assert (row["Certified linf: seeds"], row["Certified linf: images"]) == ("3", "20")
    assert (row["Certified linf: paper"], row["Certified linf: paper deviation"]) == ("0.0526", "")
    assert (rows["RobNet-large"]["Certified linf"], rows["RobNet-large"]["Certified linf: seeds"]) == ("", "0")


def test_latex_has_as_many_cells_in_every_row(results, tmp_path):
    report(results, 5, tmp_path)
    text = (tmp_path / "table5.tex").read_text(encoding="utf-8")
    (layout,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    body = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == len([*ADV, *DSRNA, "Random search", "images"])
    assert all(len(re.findall(r"(?<!\\)&", row)) == len(layout) - 1 for row in rows)
    assert all(text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1 for name in ("table*", "tabular"))
    assert r"DSRNA-CB & 3 & 97.00 $\pm$ 1.00 & -- & 0.0150 $\pm$ 0.0030 & 0.0526 & 12.0 \\" in text
    assert r"cpu\_1 \& co" in text
    # braces are balanced, also line by line of the body
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"(?<!\\)[#^]|(?<!\\)_(?!\w*\})", bare.split("\n", 1)[1])


def test_latex_spans_cover_the_columns(results, tmp_path):
    report(results, 5, tmp_path)
    text = (tmp_path / "table5.tex").read_text(encoding="utf-8")
    assert re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", text) == [("3", "4"), ("5", "6")]
    assert re.findall(r"\\multicolumn\{2\}\{c\}\{(.*?)\}", text) == ["Without attack", "Certified linf"]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("C&W 5% $x_1$ #2", r"C\&W 5\% \$x\_1\$ \#2"), ("a\\b{c}~^", r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}")],
)
def test_escape(text, escaped):
    assert escape(text) == escaped


def test_search_costs_are_relative_to_darts_at_the_same_seed_and_device(tmp_path):
    cost = {"table": 2, "dataset": "cifar10", "images": "", "seconds": 7.0}
    results = write(
        tmp_path / "r.csv",
        [
            *values("DARTS (1st)", COST, 10.0, 20.0, **cost),
            *values("DSRNA-CB", COST, 30.0, 40.0, **cost),
            *values("PC-DARTS", COST, 5.0, **{**cost, "device": "another"}),
        ],
    )
    (block,) = blocks(results, 2)
    assert block.cells["DSRNA-CB", COST_RATIO].by_seed == {0: 3.0, 1: 2.0}
    assert block.cells["PC-DARTS", COST_RATIO].mean is None
    assert block.seconds("DSRNA-CB") == 14.0  # not twice
    report(results, 2, tmp_path)
    text = (tmp_path / "table2.md").read_text(encoding="utf-8")
    header = cells(text, "method")
    assert header == ["method", "seeds", "Test accuracy", "Params (M)", COST, COST_RATIO, "device time (s)"]
    assert cells(text, "DSRNA-CB")[4:6] == ["35.0 ± 7.1 (-)", "2.50 ± 0.71 (2.67)"]
    assert not list(tmp_path.glob("*.png"))  # nothing robust in Table 2


def test_clean_accuracy_comes_first_even_where_nobody_measured_it(tmp_path):
    results = write(tmp_path / "r.csv", values("DSRNA-CB", "FGSM", 50.0, table=1, dataset="digits"))
    (block,) = blocks(results, 1)
    assert block.columns == ["Without attack", "PGD (10)", "PGD (20)", *ATTACKS]
    report(results, 1, tmp_path)
    text = (tmp_path / "table1.md").read_text(encoding="utf-8")
    assert "the paper's figures: cifar10" in text and "Another data set" in text


def test_other_columns_stand_beside_but_are_no_claim(tmp_path):
    """The two clean accuracies come first; signs of masked gradients are shown and not compared."""
    signs = "Signs of masked gradients"
    columns = ["Test accuracy", "Without attack", "FGSM", signs, "Params (M)"]
    rows = [line for row in ADV[:1] + DSRNA for c in columns for line in values(row, c, 1.0, 2.0, table=4)]
    (block,) = blocks(write(tmp_path / "r.csv", rows), 4)
    assert block.columns == ["Without attack", "Test accuracy", *ATTACKS, signs, "Params (M)"]
    assert {column for _, _, column in block.comparisons()} == {"Without attack", "Test accuracy", "FGSM"}


def test_no_images_are_0_images(tmp_path):
    results = write(tmp_path / "r.csv", values("DSRNA-CB", "Params (M)", 1.0, table=3, images=0))
    (block,) = blocks(results, 3)
    assert block.cells["DSRNA-CB", "Params (M)"].images == set()


def test_networks_of_other_widths_stand_beside_and_do_not_count(tmp_path):
    """They are no seeds of a cell and no part of a comparison; together with the scale's own they make a curve."""
    narrow, narrower = {"channels": 2}, {"channels": 1}
    lines = [
        *values("DSRNA-CB", "Test accuracy", 96.0, 98.0),
        *values("DSRNA-CB", "Certified linf", 0.01, 0.03),
        *values("DSRNA-CB", "Test accuracy", 90.0, 92.0, **narrow),
        *values("DSRNA-CB", "Certified linf", 0.04, 0.06, **narrow),
        *values("DSRNA-CB", "Test accuracy", 80.0, 70.0, **narrower),
        *values("DSRNA-CB", "Certified linf", 0.09, **narrower),  # the other seed has no accuracy to stand beside
        *values("SDARTS-ADV", "Test accuracy", 95.0),
        *values("SDARTS-ADV", "Certified linf", 0.02),
    ]
    (block,) = blocks(write(tmp_path / "r.csv", lines), 5)
    assert block.cells["DSRNA-CB", "Certified linf"].by_seed == {0: 0.01, 1: 0.03}
    assert block.seconds("DSRNA-CB") == 8.0
    expected = [(80.0, 0.09), (91.0, 0.05), (97.0, 0.02)]
    for found, wanted in zip(block.over_widths("DSRNA-CB", "Certified linf"), expected, strict=True):
        assert found == pytest.approx(wanted)
    assert block.over_widths("SDARTS-ADV", "Certified linf") == []
    report(write(tmp_path / "r.csv", lines), 5, tmp_path)
    text = (tmp_path / "table5.md").read_text(encoding="utf-8")
    assert "0.0900" not in text and "networks of several widths" in text


def test_blocks_are_scales_protocols_and_datasets(tmp_path):
    lines = [
        line
        for scale, protocol, dataset in [("smoke", "paper", "digits"), ("smoke", "equal", "digits"), ("small", "paper", "cifar10")]
        for line in values("DSRNA-CB", "Certified linf", 0.5, scale=scale, protocol=protocol, dataset=dataset)
    ]
    found = blocks(write(tmp_path / "r.csv", [*lines, *values("DSRNA-CB", "FGSM", 1.0, table=4)]), 5)
    assert [(b.scale, b.protocol, b.dataset, b.paper_dataset) for b in found] == [
        ("smoke", "paper", "digits", "mnist"),
        ("smoke", "equal", "digits", "mnist"),
        ("small", "paper", "cifar10", "cifar10"),
    ]
    assert str(found[2].cells["DSRNA-CB", "Certified linf"].paper) == "0.0049"


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("FGSM", 69.876, "69.88"),
        ("Certified linf", 0.0123456, "0.0123"),
        ("Certified l2", 0.000098765, "0.0000988"),
        ("Certified l2", 0.0, "0.00"),
        ("Params (M)", 3.25, "3.25"),
        ("Params (M)", 0.0064741, "0.00647"),
        (COST, 12.345, "12.3"),
        (COST_RATIO, 2.666, "2.67"),
    ],
)
def test_digits(column, value, text):
    assert number(column, value) == text


def test_the_console_has_the_same_figures(results, tmp_path):
    text = report(results, 5, tmp_path)
    for part in ("Table 5: mnist, scale smoke, protocol paper", "0.0150 ± 0.0030", "(0.0526)", "one seed: no interval"):
        assert part in text
    assert not re.search(r"\x1b|[ \t]$", text, flags=re.MULTILINE)


def test_one_command_and_twice_the_same_bytes(results, tmp_path):
    for out in ("a", "b"):
        found = CliRunner().invoke(main, [str(results), "--table", "5", "--out", str(tmp_path / out)])
        assert found.exit_code == 0, found.output
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("a", "b"))
    assert first == second
    assert set(first) == {"table5.md", "table5.tex", "table5.csv", "table5-smoke-paper-mnist.png"}
    assert b"(table5-smoke-paper-mnist.png)" in first["table5.md"]


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_tables_come_from_their_csv(folder, tmp_path, monkeypatch):
    # A picture's bytes are those of one version of matplotlib.
    monkeypatch.setattr(experiments.tables.report, "plot", lambda block, path: (folder / path.name).exists())
    report(folder / "results.csv", int(folder.name[len("table")]), tmp_path)
    written = list(tmp_path.iterdir())
    assert len(written) == 3
    for path in written:
        assert path.read_bytes() == (folder / path.name).read_bytes()


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_tables_have_every_cell(folder):
    _, scale, protocol = folder.name.split("-")
    number, scale = int(folder.name[len("table")]), load_scale(scale)
    options = json.loads((folder / "config.json").read_text())["options"]
    chosen = scale.tables[number].only(options["rows"], options["datasets"])
    assert scale.name != "smoke" or chosen == scale.tables[number]
    wanted = wanted_cells(scale, number, chosen, protocol, scale.seeds, False)
    with (folder / "results.csv").open() as file:
        found = Counter(
            (line["dataset"], line["row"], int(line["seed"]), line["channels"], line["column"])
            for line in csv.DictReader(file)
        )
    assert found == Counter(
        (cell.dataset, cell.row, cell.seed, str(cell.channels or ""), cell.column.name) for cell in wanted
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"table": 4}], "no results of table 5"),
        ([{}, {}], "twice the value of 5, smoke, paper, mnist, DSRNA-CB, Certified linf, 0"),
        ([{"value": "nan"}], "line 2: the value is nan"),
        ([{}, {"seed": "x"}], "line 3: not a line of results"),
    ],
)
def test_damage_is_named(tmp_path, lines, message):
    results = write(tmp_path / "r.csv", lines)
    with pytest.raises(InputError, match=message):
        report(results, 5, tmp_path / "out")
    found = CliRunner().invoke(main, [str(results), "--table", "5", "--out", str(tmp_path / "out")])
    assert found.exit_code == 2 and not (tmp_path / "out").exists()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column channels"):
        report(tmp_path / "x.csv", 5, tmp_path)
    with pytest.raises(InputError, match=r"missing\.csv"):
        report(tmp_path / "missing.csv", 5, tmp_path)
    with pytest.raises(InputError, match="tables are 1 to 6"):
        report(tmp_path / "x.csv", 7, tmp_path)


def test_a_line_cut_short_is_no_line(results, tmp_path):
    with results.open("a") as file:
        file.write("5,smoke,paper,DSRNA-CB,7\n")
    with pytest.raises(InputError, match="not a line of results"):
        report(results, 5, tmp_path)
