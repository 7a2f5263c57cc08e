"""The HTML of a report: one file that needs nothing else, no network and no other file."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape

from robust_nas.reporting.folder import RunFolder, Table

STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ccc; --pale: #f4f4f4; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #1b1b1b; --line: #555; --pale: #282828; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 1.5rem; }
h1, h2, h3 { line-height: 1.2; } h3 { margin: 1.4em 0 .4em; }
.runs { display: flex; gap: 2rem; align-items: flex-start; overflow-x: auto; }
.run { flex: 1 0 30rem; max-width: 60rem; min-width: 0; }
.wide { overflow: auto; max-height: 26rem; border: 1px solid var(--line); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
table.options td { white-space: normal; overflow-wrap: anywhere; }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid; }
thead th { position: sticky; top: 0; background: var(--pale); }
img, svg { max-width: 100%; height: auto; background: #fff; } figure { margin: .5rem 0; }
pre { background: var(--pale); padding: .6rem; overflow-x: auto; }
.differs { background: #e69f0033; }
"""
SCRIPT = """
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, table = head.closest("table"), body = table.tBodies[0];
    const column = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending";
    const key = (row) => row.cells[column].textContent;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)], [n, m] = [Number(x), Number(y)];
      const order = x !== "" && y !== "" && !isNaN(n) && !isNaN(m) ? n - m : x.localeCompare(y);
      return down ? -order : order;
    });
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  });
}
"""


def page(runs: Sequence[RunFolder], comparisons: Iterable[tuple[str, bytes]]) -> str:
    """The whole file.

    Args:
        comparisons: pictures of several runs at once: what they compare, and a PNG.
    """
    names = ", ".join(str(run.path) for run in runs)
    together = "".join(
        f"<h3>{escape(title)}</h3>{_picture(title, 'image/png', content)}" for title, content in comparisons
    )
    differing = _differing(runs)
    columns = "".join(f'<section class="run">{_run(run, differing)}</section>' for run in runs)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>dsrna: {escape(names)}</title><style>{STYLE}</style></head><body>'
        f"<h1>{'Run' if len(runs) == 1 else f'{len(runs)} runs'} of dsrna</h1>{together}"
        f'<div class="runs">{columns}</div><script>{SCRIPT}</script></body></html>\n'
    )


def _differing(runs: Sequence[RunFolder]) -> set[str]:
    """Options that runs of one command do not share."""
    names = {name for run in runs for name in run.options}
    kinds = {run.command for run in runs}
    return {
        name
        for name in names
        for kind in kinds
        if len({_text(run.options.get(name)) for run in runs if run.command == kind}) > 1
    }


def _run(run: RunFolder, differing: set[str]) -> str:
    parts = [f"<h2>{escape(run.command)}: {escape(str(run.path))}</h2>"]
    parts += [_picture(*picture) for picture in run.pictures]
    if run.cells:
        parts += ["<h3>cells</h3>", *(f"<figure>{cell}</figure>" for cell in run.cells)]
    parts += [_table(table) for table in run.tables]
    parts += ["<h3>options</h3>", _pairs(run.options, differing)]
    parts += ["<h3>made with</h3>", _pairs({"device": run.device, **run.versions}, set())]
    if run.repeat:
        line = f"dsrna {escape(run.command)} --config run.toml"
        parts += ["<h3>how to repeat it</h3>", f"<p>Save this as run.toml; then <code>{line}</code></p>"]
        parts += [f"<pre>{escape(run.repeat)}</pre>"]
    return "".join(parts)


def _picture(name: str, kind: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return f'<figure><img alt="{escape(name)}" src="data:{kind};base64,{data}"></figure>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in table.header)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    shown = "" if table.total == len(table.rows) else f" (the first {len(table.rows)} of {table.total} rows)"
    return (
        f"<h3>{escape(table.name)}{shown}</h3>"
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _pairs(values: dict[str, object], marked: set[str]) -> str:
    rows = []
    for name, value in values.items():
        row = f'<th scope="row">{escape(name)}</th><td>{escape(_text(value))}</td>'
        rows.append(f'<tr class="differs">{row}</tr>' if name in marked else f"<tr>{row}</tr>")
    return f'<table class="options"><tbody>{"".join(rows)}</tbody></table>'


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
