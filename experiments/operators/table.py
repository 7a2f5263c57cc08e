"""The operators and idioms that have bounds, how tight they are, and what is refused: docs/operators.md.

    python experiments/operators/table.py          # measures all and writes the page
    python experiments/operators/table.py --page   # the page alone, of results/operators.csv

A network of a random linear layer, the idiom, and random sums of its results is bounded in an l-infinity ball, and
attacked there. The figure is the width of the bounds over that of what the attack reached: 1 is as tight as can be.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from experiments.common import Script, markdown_table
from experiments.operators.idioms import FAMILIES, SHAPE, Function
from experiments.operators.stock import STOCK
from robust_nas.files import atomic_path
from robust_nas.runs import Run
from verify import Ball, BoundedNetwork
from verify.checks.errors import InputError
from verify.operators import RULES, Operator

RESULTS = Path(__file__).parent.parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "operators.md"
METHODS = ("ibp", "crown-ibp", "affine", "crown", "alpha-crown")
PIXELS, IMAGES, SUMS, RADIUS, STEPS = 16, 2, 4, 0.05, 12
COLUMNS = ("family", "idiom", "rules", *METHODS)

Row = dict[str, str]


class Around(nn.Module):
    """A random linear layer before a function of images, and random sums of its results."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(PIXELS, SHAPE[0] * SHAPE[1] * SHAPE[2])
        self.function = function if isinstance(function, nn.Module) else None
        self.call = function
        with torch.no_grad():
            self.double().eval()
            self.sums = nn.Linear(self.features(torch.rand(2, PIXELS).double()).shape[1], SUMS).double()

    def features(self, x: Tensor) -> Tensor:
        """The results of the function, a row an image."""
        return self.call(2 * self.mix(x).unflatten(1, SHAPE)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        sums: Tensor = self.sums(self.features(x))
        return sums


def measure(family: str, idiom: str, function: Function) -> Row:
    """The row of an idiom: rules of its calls, and tightness by method."""
    model = Around(function)
    network = BoundedNetwork(model, torch.rand(1, PIXELS).double())
    images = torch.rand(IMAGES, PIXELS, generator=torch.Generator().manual_seed(1)).double()
    ball = Ball(images, RADIUS, "linf", "free")
    low, high = reached(model, ball)
    tightness = {}
    for method in METHODS:
        with torch.no_grad():
            bounds = network.bounds(ball, method=method)
        slack = 1e-6 * (1 + high.abs() + low.abs())  # an idiom may compute in float32
        if not ((bounds.lower <= low + slack) & (bounds.upper >= high - slack)).all():
            raise RuntimeError(f"{idiom}: {method} is broken by an attack")
        tightness[method] = f"{((bounds.upper - bounds.lower).sum() / (high - low).sum()).item():.2f}"
    own = [node for node in network.graph.nodes if node.from_input and isinstance(node, Operator)][3:-2]
    return {"family": family, "idiom": idiom, "rules": " ".join(dict.fromkeys(map(rule, own))), **tightness}


def rule(node: Operator | type[Operator]) -> str:
    """Where the rule of an operator is: its file in verify/operators, and its class."""
    kind = node if isinstance(node, type) else type(node)
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"


def reached(model: nn.Module, ball: Ball) -> tuple[Tensor, Tensor]:
    """The least and the largest of each sum that signed gradient steps reach within the ball, "b s" both."""
    signs = torch.cat([torch.eye(SUMS), -torch.eye(SUMS)]).double()
    many = ball.repeat(len(signs))
    rows = signs.repeat_interleave(IMAGES, 0)
    x, values = many.sample(torch.Generator().manual_seed(2)), []
    for step in range(STEPS):
        x = x.detach().requires_grad_()
        outputs = model(x)
        values.append(outputs.detach())
        (gradient,) = torch.autograd.grad((outputs * rows).sum(), x)
        x = many.project(x + 2 * RADIUS / (1 + step) * gradient.sign())
    found = torch.cat([*values, model(x).detach()]).unflatten(0, (-1, IMAGES))
    return found.amin(0), found.amax(0)


def refusal(function: Function) -> str | None:
    """What the error says of an idiom that has no bound; None of one that has."""
    try:
        BoundedNetwork(Around(function).eval(), torch.rand(1, PIXELS).double())
    except InputError as error:
        return str(error)
    return None


def page(rows: Sequence[Row], refusals: Sequence[Row], networks: Sequence[Row]) -> str:
    """The text of docs/operators.md."""
    lines = [*INTRODUCTION.strip().splitlines(), ""]
    for family, (title, _) in FAMILIES.items():
        found = [row for row in rows if row["family"] == family]
        if not found:
            continue
        table = markdown_table(
            ["idiom", "rules", *METHODS],
            [[row["idiom"], row["rules"].replace(" ", ", "), *(row[method] for method in METHODS)] for row in found],
        )
        lines += [f"## {title}", "", "<!-- experiments/results/operators.csv -->", "", *table, ""]
    lines += ["## Whole networks", "", *NETWORK_WORDS.splitlines(), ""]
    lines += ["<!-- experiments/results/networks.csv -->", "", *network_table(networks), ""]
    refused = markdown_table(["idiom", "what the refusal says"], [[row["idiom"], row["refusal"]] for row in refusals])
    lines += ["## Refused", "", *refused, "", "## Rules", "", RULE_WORDS, ""]
    lines += [*markdown_table(["rule", "ATen calls"], [[name, ", ".join(calls)] for name, calls in registered()]), ""]
    stock = markdown_table(["auto_LiRPA 0.3", "here"], [[name, ours] for name, ours in STOCK.items()])
    return "\n".join([*lines, "## Beside auto_LiRPA", "", STOCK_WORDS, "", *stock, ""])


def network_table(networks: Sequence[Row]) -> list[str]:
    """A row for every network and method."""
    headers = ["network", "parameters", "attack radius", "method", "certified radius", "seconds an image", "broken"]
    cells = []
    for row in networks:
        attacked, radius, seconds = (_short(row[name]) for name in ("attack_radius", "radius", "seconds"))
        attacked = "not found up to 1" if attacked == "inf" else attacked
        broken = f"{row['broken']} of {row['images']}" if row["broken"] else ""
        if row["status"] != "certified":
            radius = f"{radius} ({row['status']})".strip()
        cells.append([row["network"], row["parameters"], attacked, row["method"], radius, seconds, broken])
    return markdown_table(headers, cells)


def _short(figure: str) -> str:
    return f"{float(figure):.2g}" if figure else ""


def registered() -> list[tuple[str, list[str]]]:
    """The calls of every rule."""
    calls: dict[str, list[str]] = {}
    for name, kind in sorted(RULES.items()):
        calls.setdefault(rule(kind), []).append(name.removeprefix("aten.").removesuffix(".default"))
    return sorted(calls.items())


def read(name: str) -> list[Row]:
    """A file of results."""
    with (RESULTS / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@click.command(cls=Script)
@click.option("--page", "only_page", is_flag=True, help="Write the page of what was measured before.")
def main(only_page: bool) -> None:
    """Measure every idiom; write results/operators.csv, results/operators_refused.csv and docs/operators.md."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    refused: list[Row] = []
    for family, (_, idioms) in {} if only_page else FAMILIES.items():
        for idiom, function in idioms.items():
            why = refusal(function)
            if why is None:
                rows.append(measure(family, idiom, function))
            else:
                refused.append({"idiom": idiom, "refusal": why})
            print(idiom, why or rows[-1], flush=True)
    if not only_page:
        Run(RESULTS).write_csv("operators.csv", rows)
        Run(RESULTS).write_csv("operators_refused.csv", refused)
    with atomic_path(PAGE) as temporary:
        results = (read(name) for name in ("operators.csv", "operators_refused.csv", "networks.csv"))
        temporary.write_text(page(*results), encoding="utf-8")


INTRODUCTION = """
# Operators

What `verify` bounds, call by call, how tightly, and what it refuses. `python experiments/operators/table.py` makes
this page; [extending.md](extending.md) says how to add an operator.

The figures: a random linear layer of 16 pixels, then the idiom on images of 4 x 4 x 4, then four random sums of its
results are bounded in an l-infinity ball of radius 0.05. A figure is the width of the bounds over the width of what 12
gradient steps reach in the ball, summed over two images and four sums. 1.00 is as tight as can be; what is above 1 is
loose, or was not reached. No bound was broken. `ibp` forgets that all values come from the same pixels, which costs a
factor of 7.7 here before there is any idiom.

`rules` says where: `smooth.GELU` is the class `GELU` of `verify/operators/smooth.py`. An idiom without a rule of its
own is made of calls that have one, or of none. Batch norm in training mode takes the statistics of a clean batch, which
`BoundedNetwork.freeze` gives it.
"""
NETWORK_WORDS = """`python experiments/operators/networks.py`: random weights, batch norms with the statistics of random
images, the networks' own answers as labels, l-infinity in the domain `unit`, two images of the small networks and one
of torchvision's at 3 x 32 x 32. Seconds are those of one processor. None of the certified balls was broken by the
audit."""
RULE_WORDS = """Every registered rule, and the ATen calls that it is for. Calls that are bounded by way of simpler ones
are in `verify/graph/decompositions.py` and `verify/graph/composed.py`."""
STOCK_WORDS = """Every operator of auto_LiRPA 0.3, and what is in its place here. Theirs are classes of ONNX operators,
ours of ATen calls."""

if __name__ == "__main__":
    main()
