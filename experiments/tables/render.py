"""A table for people: Markdown, LaTeX, the console, and a wide CSV for programs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from io import StringIO

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.common import markdown_table
from experiments.tables.published import COST_RATIO, REFERENCE
from experiments.tables.results import COST, Block, Cell, decimals, number
from robust_nas.certification.records import DOMAIN_WORDS

EMPTY = "-"
_CONSOLE_WIDTH = 200
_TIME = "device time (s)"
_WIDTHS = "A line joins the means of a method's networks of several widths, for a comparison at equal accuracy."
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def markdown(blocks: Sequence[Block], pictures: Sequence[str | None]) -> str:
    """All blocks, each with its table, its plot where there is one, comparisons and every seed's value."""
    lines = [f"# Table {blocks[0].table}", "", *_legend(blocks[0])]
    for block, picture in zip(blocks, pictures, strict=True):
        lines += ["", f"## {_title(block)}", "", *_paragraphs(block), ""]
        lines += markdown_table(_headers(block), _body(block, "{} ({})"))
        if picture:
            lines += ["", f"![robustness against clean accuracy]({picture})"]
            lines += ["", _WIDTHS] if block.widths else []
        compared = _comparisons(block)
        lines += ["", "### Is it better?", "", _TESTS if compared else "No two methods have a seed in common."]
        for headers, rows in compared:
            lines += ["", *markdown_table(headers, rows)]
        lines += ["", "### Every seed", "", *_appendix(block)]
    return "\n".join(lines) + "\n"


def latex(blocks: Sequence[Block]) -> str:
    """A `table*` a block, for a document that uses booktabs and graphicx."""
    lines = ["% needs \\usepackage{booktabs,graphicx}"]
    for block in blocks:
        lines += ["", *_latex_table(block)]
    return "\n".join(lines) + "\n"


def console(blocks: Sequence[Block]) -> str:
    """The tables as text, the paper's figures under ours, and the comparisons."""
    screen = Console(file=StringIO(), width=_CONSOLE_WIDTH)
    for block in blocks:
        screen.print(_view(f"Table {block.table}: {_title(block)}", _headers(block), _body(block, "{}\n({})")))
        compared = _comparisons(block)
        for line in [*_paragraphs(block), *([_TESTS] if compared else [])]:
            screen.print(Text(line))
        for headers, rows in compared:
            screen.print(_view(None, headers, rows))
    assert isinstance(screen.file, StringIO)
    return "\n".join(line.rstrip() for line in screen.file.getvalue().splitlines()) + "\n"


def wide(blocks: Sequence[Block]) -> list[dict[str, object]]:
    """A row a block and method: of each column our mean, deviation, seeds, images, and the paper's figures."""
    columns = list(dict.fromkeys(column for block in blocks for column in block.columns))
    rows = []
    for block in blocks:
        for name in block.rows:
            row: dict[str, object] = {
                "table": block.table,
                "scale": block.scale,
                "protocol": block.protocol,
                "dataset": block.dataset,
                "paper dataset": block.paper_dataset,
                "row": name,
                "seconds": block.seconds(name),
                "devices": "; ".join(block.devices),
                "domain": "; ".join(block.domains),
            }
            for column in columns:
                row |= _wide_cell(column, block.cells.get((name, column), Cell((), None)))
            rows.append(row)
    return rows


def _wide_cell(column: str, cell: Cell) -> dict[str, object]:
    paper = cell.paper
    return {
        column: cell.mean,
        f"{column}: deviation": cell.deviation,
        f"{column}: seeds": len(cell.lines),
        f"{column}: images": _range(cell.images),
        f"{column}: paper": paper.mean if paper else None,
        f"{column}: paper deviation": paper.deviation if paper else None,
    }


def _view(title: str | None, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    view = Table(title=title, title_justify="left", box=SIMPLE)
    for place, header in enumerate(headers):
        view.add_column(Text(header), justify="right" if place else "left")
    for row in rows:
        view.add_row(*map(Text, row))
    return view


def _title(block: Block) -> str:
    return f"{block.dataset}, scale {block.scale}, protocol {block.protocol}"


def _legend(block: Block) -> list[str]:
    """What holds for every block of the table."""
    text = [
        "In a cell: ours, mean ± sample standard deviation over the seeds (one seed: no deviation), and in brackets",
        f"the paper's; {EMPTY} where there is none. Accuracies in percent, certified radii in pixels from 0 to 1.",
        "The last line of a table says how many images a figure is a mean of.",
    ]
    if COST_RATIO in block.columns:
        text.append(f"Search costs: ours in device time, the paper's in GPU days; as ratios, {REFERENCE} is 1.")
    return text


def _paragraphs(block: Block) -> list[str]:
    """What the reader of one block has to know."""
    seeds = sorted({line.seed for line in block.lines})
    lines = [
        f"{'Seed' if len(seeds) == 1 else 'Seeds'} {', '.join(map(str, seeds))}; "
        f"device: {'; '.join(block.devices)}; the paper's figures: {block.paper_dataset}."
    ]
    if block.dataset != block.paper_dataset:
        lines.append("Another data set than the paper's: compare methods, not our figures with the paper's.")
    if block.domains:
        lines.append(f"Certified radii: {'; '.join(DOMAIN_WORDS[domain] for domain in block.domains)}.")
    if block.scale != "paper":
        lines.append(f"Scale {block.scale}: networks, epochs and images are fewer than the paper's.")
    return lines


def _headers(block: Block) -> list[str]:
    return ["method", "seeds", *block.columns, _TIME]


def _body(block: Block, template: str) -> list[list[str]]:
    """The cells of a block as text, and the line of image counts; `template` joins ours and the paper's."""
    rows = []
    for row in block.rows:
        cells = [block.cells[row, column] for column in block.columns]
        seeds = {len(cell.lines) for cell in cells if cell.lines}
        joined = (_joined(template, *_pair(*pair)) for pair in zip(block.columns, cells, strict=True))
        rows.append([row, _range(seeds), *joined, _time(block, row)])
    return [*rows, ["images", "", *(_range(_images(block, column)) for column in block.columns), ""]]


def _pair(column: str, cell: Cell) -> tuple[str, str]:
    """Ours and the paper's."""
    return _ours(column, cell), str(cell.paper) if cell.paper else EMPTY


def _ours(column: str, cell: Cell) -> str:
    if cell.mean is None:
        return EMPTY
    text = number(column, cell.mean)
    return text if cell.deviation is None else f"{text} ± {cell.deviation:.{decimals(column, cell.mean)}f}"


def _joined(template: str, ours: str, paper: str) -> str:
    return EMPTY if ours == paper == EMPTY else template.format(ours, paper)


def _images(block: Block, column: str) -> set[int]:
    return set().union(*(block.cells[row, column].images for row in block.rows))


def _time(block: Block, row: str) -> str:
    seconds = block.seconds(row)
    return EMPTY if seconds is None else number(COST, seconds)


def _range(counts: set[int]) -> str:
    """One number, or the smallest and the largest."""
    if not counts:
        return EMPTY
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}-{high}"


_TESTS = (
    "Differences are paired over seeds: the mean, its 95 % bootstrap interval, and the two-sided p-value of the exact "
    "sign-flip test. With n seeds no p-value is below 2^(1-n), and intervals of few seeds are too narrow; p-values are "
    "not corrected for the number of comparisons. A cost is better the smaller it is, all else the larger."
)


def _comparisons(block: Block) -> list[tuple[list[str], list[list[str]]]]:
    """A table a method of the paper, headers and rows: its row minus each baseline's."""
    found = block.comparisons()
    tables = []
    for method in dict.fromkeys(first for first, _, _ in found):
        columns = list(dict.fromkeys(column for first, _, column in found if first == method))
        baselines = list(dict.fromkeys(second for first, second, _ in found if first == method))
        rows = [
            [baseline, *(str(found.get((method, baseline, column), EMPTY)) for column in columns)]
            for baseline in baselines
        ]
        tables.append(([f"{method} minus", *columns], rows))
    return tables


def _appendix(block: Block) -> list[str]:
    """Every seed's value."""
    seeds = sorted({line.seed for line in block.lines})
    rows = []
    for (row, column), cell in block.cells.items():
        if cell.lines:
            values = (f"{cell.by_seed[seed]:.6g}" if seed in cell.by_seed else EMPTY for seed in seeds)
            rows.append([row, column, _range(cell.images), *values])
    return markdown_table(["method", "column", "images", *(f"seed {seed}" for seed in seeds)], rows)


def escape(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return re.sub(r"[\\~^±&%$#_{}]", lambda found: _LATEX[found.group()], text)


def _latex_table(block: Block) -> list[str]:
    """Two columns, ours and the paper's, under every column's name."""
    count = len(block.columns)
    spans = [range(3 + 2 * i, 5 + 2 * i) for i in range(count)]
    rows = [["method", "seeds", *["ours", "paper"] * count, _TIME]]
    for row, (_, seeds, *_, time) in zip(block.rows, _body(block, "{} ({})"), strict=False):
        pairs = (_pair(column, block.cells[row, column]) for column in block.columns)
        rows.append([row, seeds, *(text for pair in pairs for text in pair), time])
    images = [text for column in block.columns for text in (_range(_images(block, column)), "")]
    header = " & ".join(rf"\multicolumn{{2}}{{c}}{{{escape(column)}}}" for column in block.columns)
    caption = f"Table {block.table} of the paper, ours beside it. {_title(block)}. {' '.join(_paragraphs(block))}"
    return [
        r"\begin{table*}",
        r"\centering",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{ll{'rr' * count}r}}",
        r"\toprule",
        f" &  & {header} & \\\\",
        " ".join(rf"\cmidrule(lr){{{span.start}-{span.stop - 1}}}" for span in spans),
        _latex_row(rows[0]),
        r"\midrule",
        *map(_latex_row, rows[1:]),
        r"\midrule",
        _latex_row(["images", "", *images, ""]),
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{block.table}-{block.scale}-{block.protocol}-{block.dataset}}}",
        r"\end{table*}",
    ]


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join("--" if cell == EMPTY else escape(cell) for cell in cells) + r" \\"
