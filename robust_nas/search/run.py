"""A search, from a data set to a genotype file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from robust_nas import resumable
from robust_nas.data import load
from robust_nas.distributed import processes
from robust_nas.genotype import Architecture, Genotype
from robust_nas.options.search import SearchOptions
from robust_nas.pictures.search import animate_alphas, plot_alphas, plot_search
from robust_nas.runs import Row, Run, choose_device, notice, read_rows, seed_everything, versions
from robust_nas.search.engine import Search
from robust_nas.search.memory import advice
from robust_nas.search.planning import check_team, described, plan_of, settled
from robust_nas.search.watch import collapse
from robust_nas.spaces.cells import KINDS
from robust_nas.spaces.supernet import Supernet
from robust_nas.tensorboard import check_installed

RESULTS = ("genotype.json", "alphas.safetensors", "alphas.png", "alphas.gif", "search.png")
PAPER_SCALE = "dsrna search --metric cb --dataset cifar10 --preset paper"


@dataclass(frozen=True)
class SearchResult:
    """What a search gave.

    Attributes:
        genotype_path: the genotype file.
        summary: (name, value) pairs for people.
    """

    genotype_path: Path
    summary: list[tuple[str, str]]


def run_search(options: SearchOptions) -> SearchResult:
    """Search an architecture.

    Writes genotype.json, alphas.safetensors (the architecture parameters before softmax), alphas.png, alphas.gif (how
    they grew, epoch by epoch), search.csv (a row a step), search.png, timing.csv, config.json, and after every epoch a
    checkpoint. A search that is stopped with Ctrl-C or SIGTERM saves its state first. On the CPU one seed gives one
    result, bit for bit, stopped and resumed as often as one likes.

    Under torchrun the processes share every batch, and the first one writes.

    Raises:
        InputError: an option is wrong, the data are not there, there is nothing to resume, or the training loss is no
            longer finite.
    """
    if options.tensorboard:
        check_installed()
    options = settled(options)
    place, plan = choose_device(options.device), plan_of(options)
    choices = described(options, plan)
    with processes(place) as team:
        check_team(team, plan)
        images = team.leader_first(lambda: load(options.dataset, options.data, options.download))
        record = {
            **choices, "device": place.type, "data": options.data, "hessian": plan.hessian, "amp": plan.amp,
            "processes": team.size, "sizes": asdict(plan.preset),
        }  # fmt: skip
        seed_everything(options.seed)
        search = Search(plan, images, place, team)
        run = resumable.begin("search", search, options.out, record, RESULTS, options.resume)
        if team.leads and search.stage is not None:
            notice(advice(search))
        seconds = resumable.follow("search", search, run, _note, options.tensorboard)
        meta = {**choices, "bound_method": plan.preset.bound_method, "versions": versions()}
        result = _finish(search, run, meta, seconds) if team.leads else None
    return result or SearchResult(run.folder / "genotype.json", [])


def _finish(search: Search, run: Run, meta: Mapping[str, object], seconds: float) -> SearchResult:
    """Write the results."""
    rows = read_rows(run.folder / "search.csv")
    if parameters := search.parameters():
        run.save_tensors("alphas.safetensors", parameters)
        model, alphas = search.model, {kind: parameters[kind] for kind in KINDS}
        assert isinstance(model, Supernet)
        plot_alphas(alphas, model.operations, model.nodes, run.folder / "alphas.png")
        if course := _alike(search.course, alphas):
            animate_alphas(course, model.operations, model.nodes, run.folder / "alphas.gif")
    plot_search(rows, run.folder / "search.png")
    stopped = None if search.stopped is None else search.stopped.reason
    genotype = search.genotype().with_meta({**meta, "epsilon": rows[-1].get("epsilon"), "stopped": stopped})
    path = run.folder / "genotype.json"
    genotype.save(path)
    return SearchResult(path, _summary(genotype, rows, search, seconds))


def _alike(course: Sequence[Mapping[str, Tensor]], alphas: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Alphas of the epochs with as many operations as at the end: stages of P-DARTS that came before had more."""
    kinds = [{kind: parameters[kind] for kind in alphas} for parameters in course]
    return [one for one in kinds if all(one[kind].shape == alpha.shape for kind, alpha in alphas.items())]


def _note(row: Row) -> str:
    return resumable.in_words(row, ("train_loss", "val_loss", "robustness", "epsilon"))


def _summary(genotype: Architecture, rows: Sequence[Row], search: Search, seconds: float) -> list[tuple[str, str]]:
    meta = genotype.meta
    counts = {
        name if "cell" in name else f"{name} cell": Counter(operation for operation, _ in plan.edges)
        for name, plan in genotype.plans().items()
    }
    measured = search.plan.metric
    metric = meta["metric"] + (f" by {meta['bound_method']}" if measured is not None and measured.bounded else "")
    summary = [
        (
            "search",
            f"{meta['method']}, {meta['order']} order, {metric} ({meta['norm']}, gamma {meta['gamma']:g}) "
            f"on {meta['dataset']}",
        ),
        *((name, ", ".join(f"{n} {op}" for op, n in count.most_common())) for name, count in counts.items()),
        ("training loss", _course(rows, "train_loss")),
        ("validation loss", _course(rows, "val_loss")),
        ("robustness", _course(rows, "robustness")),
        ("epsilon", _course(rows, "epsilon")),
        ("time", f"{len(rows)} steps in {seconds:.0f} s"),
        ("stopped early", meta["stopped"] or ""),
        ("candidates", _candidates(search)),
        ("warning", (isinstance(genotype, Genotype) and collapse(genotype)) or ""),
    ]
    if meta["preset"] == "quick":
        summary.append(("paper scale", PAPER_SCALE))
    return [(name, value) for name, value in summary if value]


def _candidates(search: Search) -> str:
    if search.trials is None:
        return ""
    trial = search.trials.trial
    text = f"{len(search.trials.scores)}"
    right = "adversarial accuracy" if trial.recipe == "adversarial" else "accuracy"
    names = (right, "certified radius", "verified accuracy")
    for name, values in zip(names, zip(*search.trials.scores, strict=True), strict=True):
        known = [value for value in values if value is not None]
        text += f", {name} {min(known):.3g} to {max(known):.3g}" if known else ""
    return text


def _course(rows: Sequence[Row], name: str) -> str:
    """A figure at its first and last step; empty where there is none."""
    values = [value for row in rows if (value := row.get(name)) is not None]
    return f"{values[0]:.3g} -> {values[-1]:.3g}" if values else ""
