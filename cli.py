"""The `dsrna` command: parse, call, print.

Torch and all that needs it are imported inside the commands, so that `dsrna --help` answers at once.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import click

from cli_architectures import convert, show, zoo
from cli_options import (
    FILE,
    FOLDER,
    Names,
    NonNegative,
    NonNegatives,
    Positive,
    Seeds,
    arch_option,
    at_least,
    batch_size_option,
    data_options,
    device_option,
    memory_option,
    option,
    out_option,
    preset_option,
    print_paths,
    print_summary,
    resume_option,
    run_options,
)
from cli_verification import export, verify

# What torch's allocators say; on a CPU it is a plain RuntimeError.
OUT_OF_MEMORY = ("CUDA out of memory", "can't allocate memory")

# Of a cell in a search: more fit into no memory.
MOST_NODES = 100

# Letters of an error: what it quotes may have no end.
LONGEST = 800

BAD_INPUT = 2
STOPPED = 130

# Of a search, as robust_nas.search.strategies has them; that would import torch.
METHODS = [
    *("darts", "pc-darts", "p-darts", "sdarts-rs", "sdarts-adv", "pc-darts-adv", "snas", "r-darts", "darts-es"),
    *("darts+", "asap", "enas", "proxyless", "robnet", "random"),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0: done; 1: an audit or an attack broke a certificate, or a job of a table failed; 2: bad input, one line on stderr;
    130: stopped with Ctrl-C. A bug keeps its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what it cannot write
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = dsrna.main(list(arguments) or ["--help"], prog_name="dsrna", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        click.echo("dsrna: stopped", err=True)
        return STOPPED
    except Exception as error:
        line = _one_line(error)
        if line is None:
            raise
        click.echo(f"dsrna: error: {line}", err=True)
        return BAD_INPUT
    return code or 0


def _one_line(error: Exception) -> str | None:
    """What to tell a person about bad input or a full machine; None for a bug."""
    if isinstance(error, click.ClickException):
        return _flat(error.format_message())
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else _flat(str(error))
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
        return (
            "out of memory; take a smaller --preset; in search also a smaller --batch-size or a cheaper --bound, "
            "in certify fewer --images or a cheaper --method, in attack a smaller --batch-size"
        )

    from verify.checks.errors import InputError

    if isinstance(error, InputError):
        return _flat(str(error))
    return None


def _flat(text: str) -> str:
    """On one line, short enough to read, in letters that every stream can write."""
    words = " ".join(text.split()).encode(errors="backslashreplace").decode()
    return words if len(words) <= LONGEST else f"{words[: LONGEST // 2]} ... {words[-LONGEST // 2 :]}"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dsrna", message="%(prog)s %(version)s")
def dsrna() -> None:
    """Search network architectures by certified robustness; train, certify and audit them.

    \b
    Start here:
      dsrna search --metric cb
      dsrna certify --norm linf --arch runs/search/genotype.json
    """


@dsrna.command()
@option(
    "--metric",
    type=click.Choice(["none", "cb", "log-radius", "ibp-slope", "jacobian", "combined"]),
    help="Robustness metric: certified bound, logarithm of the radius that it comes to, slope of interval widths, "
    "Jacobian norm, cb and jacobian, or none. "
    "[cb, where the method takes one]",
)
@option(
    "--method",
    type=click.Choice(METHODS),
    default="darts",
    help="Search strategy; each that takes gradient steps in alpha takes any metric.",
)
@option(
    "--space",
    type=click.Choice(["darts", "robnet", "robnet-free"]),
    help="Search space: DARTS' cells, one RobNet cell for the whole network, or a RobNet cell for every place. "
    "[the method's first]",
)
@option("--order", type=click.Choice(["first", "second"]), help="Of the bilevel step. [the method's first]")
@data_options
@preset_option
@option(
    "--norm",
    type=click.Choice(["linf", "l2"]),
    default="linf",
    help="Norm of the perturbation that the metric bounds.",
)
@option("--gamma", type=NonNegative(), help="Weight of the metric. [the preset's: 0.01]")
@option(
    "--balance",
    type=Positive(),
    help="In place of --gamma: how hard the metric pulls alpha, relative to the loss. 1: as hard.",
)
@option(
    "--recipe",
    type=click.Choice(["standard", "jacobian", "adversarial", "certified", "tangent"]),
    help="What the networks are for: the loss of the weights, and of alpha on held-out images. [standard]",
)
@option(
    "--epsilon",
    type=Positive(),
    help="Perturbations of the recipe and the metric's bounds, in [0,1] pixels, such as 8/255. [the recipe's; width]",
)
@option(
    "--trials",
    type=at_least(1),
    help="Architectures near the result, trained a short way at the end; the best is the result instead.",
)
@option(
    "--screen",
    type=at_least(1),
    help="Architectures drawn for each trial; those of the narrowest intervals at fresh weights are tried. "
    "[8; methods with trials of their own, and --judge accuracy: 1]",
)
@option(
    "--refine",
    type=at_least(1),
    help="How many of the trials, the last ones, are the best architecture so far with an edge changed. [none]",
)
@option(
    "--judge",
    type=click.Choice(["accuracy", "radius"]),
    help="What the best trial has: accuracy, or certified radius at an accuracy within 1 % of the best; certified: "
    "verified accuracy.",
)
@option(
    "--bound",
    type=click.Choice(["ibp", "block", "crown-ibp", "affine", "crown"]),
    help="Method of the certified bound, from cheap to tight. [ibp]",
)
@option(
    "--jacobian",
    type=click.Choice(["sampled", "exact", "projection"]),
    help="Estimate of the Jacobian norm; projection for l2 only. [sampled]",
)
@option("--nodes", type=at_least(1, MOST_NODES), help="Intermediate nodes of a cell. [3]")
@option("--epochs", type=at_least(1), help="Length of the search. [the preset's]")
@batch_size_option
@option(
    "--stop",
    type=click.Choice(["plateau", "skips", "ranking", "eigenvalue", "darts+"]),
    help="Stop early: validation loss, one rule of DARTS+ or the other, DARTS-ES', or DARTS+'s two. [the method's]",
)
@option("--hessian", is_flag=True, help="Follow the top eigenvalue of the Hessian of the validation loss in alpha.")
@option("--amp", is_flag=True, help="bfloat16 in the weights' step where that is safe.")
@resume_option
@run_options("runs/search")
def search(**options: Any) -> None:
    """Search an architecture that is accurate and certifiably robust.

    Writes genotype.json, search.csv, search.png, config.json and, after every epoch, a checkpoint. Under torchrun the
    processes share each batch.

    \b
    Examples:
      dsrna search --metric cb
      dsrna search --metric combined --method pc-darts --order second --stop eigenvalue
      dsrna search --metric log-radius --balance 0.5 --trials 4
      dsrna search --metric none --recipe certified --epsilon 0.05 --trials 4
      dsrna search --method random --recipe certified --epsilon 0.05 --trials 12 --screen 6 --refine 5
      dsrna search --method enas
      dsrna search --method random --space robnet-free
      dsrna search --metric cb --dataset cifar10 --download --preset paper --norm l2 --out runs/paper
      torchrun --nproc-per-node 4 -m cli search --metric cb --dataset cifar10 --preset paper --amp
    """
    from robust_nas.search import run_search

    result = run_search(**options)
    print_summary(result.summary)
    click.echo(result.genotype_path)


@dsrna.command()
@arch_option
@data_options
@preset_option
@option(
    "--recipe",
    type=click.Choice(["standard", "jacobian", "adversarial", "certified", "tangent"]),
    default="standard",
    help="Cross-entropy; with Jacobian regularisation; on PGD's images; on the worst logits that bounds allow, "
    "or that tangents do (l2).",
)
@option(
    "--norm",
    type=click.Choice(["linf", "l2"]),
    help="Norm of the perturbations that robust recipes train against. [linf; tangent: l2]",
)
@option("--epsilon", type=Positive(), help="Their size, in [0,1] pixels, such as 8/255. [by data set and norm]")
@option("--bound", type=click.Choice(["ibp", "crown-ibp"]), help="Bound that certified begins with. [ibp]")
@option("--epochs", type=at_least(1), help="Length of the training. [the preset's]")
@batch_size_option
@option("--channels", type=at_least(1), help="Channels of a node in the first cells. [the preset's]")
@resume_option
@run_options("runs/train")
def train(**options: Any) -> None:
    """Train the network of an architecture.

    Writes model.safetensors and model.json, train.csv, timing.csv, config.json and, after every epoch, a checkpoint.
    Under torchrun the processes share each batch. The weights are those of the last epoch.

    \b
    Examples:
      dsrna train --arch runs/search/genotype.json
      dsrna train --arch runs/search/genotype.json --recipe certified --norm l2 --dataset mnist --preset small
      torchrun --nproc-per-node 4 -m cli train --arch genotype.json --recipe jacobian --dataset cifar10 --preset paper
    """
    from robust_nas.training import run_training

    result = run_training(**options)
    print_summary(result.summary)
    click.echo(result.weights_path)


@dsrna.command()
@arch_option
@option("--weights", type=FILE, required=True, help="Trained weights.")
@data_options
@option(
    "--attack",
    "attacks",
    type=Names(),
    metavar="A,A,...",
    help="Of fgsm, pgd-10, pgd-20, pgd-100, cw and autoattack; pgd is pgd-100. [all that know --norm]",
)
@option(
    "--norm",
    type=click.Choice(["linf", "l2"]),
    help="Norm of the perturbation; cw is an l2 attack. [as in the paper: linf, cw l2, autoattack both]",
)
@option(
    "--epsilon",
    type=Positive(),
    help="Largest perturbation, in [0,1] pixels, such as 8/255. [the paper's for the data set]",
)
@option("--images", type=at_least(1), default=100, help="How many test images.")
@option("--batch-size", type=at_least(1), default=128, help="Images attacked at once.")
@option(
    "--cw-search",
    type=at_least(1),
    default=1,
    help="Values of c that cw tries, each with 60 iterations; 1 keeps to c = 1.",
)
@option("--radius", is_flag=True, help="Also find the smallest perturbation of each image, into radii.csv.")
@option("--certificates", type=FILE, multiple=True, help="A certify.csv to hold against the attacks; may be repeated.")
@option("--guards/--no-guards", default=True, help="Look for signs of masked gradients.")
@option("--resume", is_flag=True, help="Go on with the run in --out; attacks that are done are not run again.")
@run_options("runs/attack")
def attack(**options: Any) -> int:
    """Attack a network: its accuracy under FGSM, PGD, C&W and AutoAttack, with guards against masked gradients.

    Writes attacks.csv, summary.csv (a row of the paper's Tables 1, 3 and 4), summary.json, sweep.csv, sweep.png and
    config.json; radii.csv and crosscheck.csv where asked. Exit code 1 when an attack lies within a certified radius.

    Epsilons: fgsm 2/255; pgd and autoattack 8/255 on cifar10, 2/255 on ImageNet, 0.3 on mnist; l2 attacks 1; on
    digits, which the paper does not have, 1/16 and in l2 2/7. PGD takes steps of 2/255, in l2 of 2.5 epsilon / steps.
    cw takes 60 iterations of Adam with step size 0.01 at c = 1, and succeeds where the distortion that it finds is at
    most the l2 epsilon.

    \b
    Examples:
      dsrna attack --arch runs/search/genotype.json --weights runs/train/model.safetensors
      dsrna attack --arch runs/search/genotype.json --weights runs/train/model.safetensors \\
          --attack pgd,autoattack --norm linf --epsilon 8/255 --radius --certificates runs/certify/certify.csv
    """
    from robust_nas.attacks import run_attack

    result = run_attack(**options)
    print_summary(result.summary)
    print_paths(result.paths)
    return 1 if result.violated else 0


@dsrna.command()
@arch_option
@option("--weights", type=FILE, help="Trained weights; without them the network is trained first.")
@data_options
@preset_option
@option("--norm", type=click.Choice(["linf", "l2", "l1"]), default="linf", help="Norm of the perturbation.")
@option(
    "--domain",
    type=click.Choice(["unit", "free"]),
    default="unit",
    help="unit: perturbed pixels stay in [0,1]; free: they may leave it.",
)
@option("--images", type=at_least(1), default=32, help="How many test images.")
@option(
    "--method",
    type=click.Choice(["auto", "ibp", "block", "crown-ibp", "affine", "crown", "alpha-crown"]),
    default="auto",
    help="Bounds, from cheap to tight; block is the paper's own; auto climbs from affine on as the time limit allows.",
)
@option("--tolerance", type=Positive(), default=0.05, help="How near the radius comes to what the bounds can prove.")
@memory_option
@option("--time-limit", type=Positive(), help="Seconds an image; the best radius proven so far counts. [auto: 10]")
@option(
    "--epsilon",
    "epsilons",
    type=NonNegatives(),
    metavar="E,E,...",
    default=(),
    help="Also give the verified accuracy at these radii, in [0,1] pixels, such as 2/255,8/255.",
)
@option("--targeted", is_flag=True, help="Against one random class an image, as CNN-Cert does, instead of all classes.")
@resume_option
@run_options("runs/certify")
def certify(**options: Any) -> None:
    """Certify a network: the largest radius at which no perturbation changes its answer, image by image.

    Writes certify.csv, config.json, and verified.csv where radii are given.

    \b
    Examples:
      dsrna certify --norm linf --arch runs/search/genotype.json
      dsrna certify --norm l2 --arch runs/search/genotype.json \\
          --weights runs/train/model.safetensors --epsilon 0.1,0.3
    """
    from robust_nas.certification import run_certify

    result = run_certify(**options)
    print_summary(result.summary)
    print_paths(result.paths)


@dsrna.command()
@arch_option
@option("--weights", type=FILE, required=True, help="The weights that were certified.")
@option("--certificates", type=FILE, required=True, help="The certify.csv to try to break.")
@data_options
@option("--memory", type=Positive(), help="MiB for affine forms. [what the certificates had]")
@run_options("runs/audit")
def audit(**options: Any) -> int:
    """Try to break certificates: samples, gradient attacks and a float64 re-check inside each certified ball.

    Writes audit.csv and config.json. Exit code 1 when a certificate breaks. The norm is that of the certificates;
    their domain is read from the config.json beside them.

    \b
    Example:
      dsrna audit --arch runs/search/genotype.json --weights runs/train/model.safetensors \\
          --certificates runs/certify/certify.csv
    """
    from robust_nas.certification import run_audit

    result = run_audit(**options)
    print_summary(result.summary)
    print_paths(result.paths)
    return 1 if result.broken else 0


@dsrna.command()
@click.argument("table", metavar="1..6", type=click.IntRange(1, 6))
@option("--scale", metavar="SCALE", default="smoke", help="smoke, small, paper, or a TOML file like theirs.")
@option(
    "--protocol",
    type=click.Choice(["paper", "equal"]),
    default="paper",
    help="RobNet trained adversarially and all others with Jacobian regularisation, or one recipe for all rows.",
)
@option("--targeted", is_flag=True, help="Certify as CNN-Cert does: one random class, misclassified images skipped.")
@option("--row", "rows", multiple=True, help="Only this row; may be repeated.")
@option("--dataset", "datasets", multiple=True, help="Only this data set of the table; may be repeated.")
@option("--seeds", type=Seeds(), default=(), metavar="S,S,...", help="Random seeds. [the scale's]")
@option("--workers", type=at_least(1), help="Jobs at a time. [one a GPU, or what the cores have room for]")
@option("--dry-run", is_flag=True, help="List the jobs, with estimated time and memory.")
@option("--data", type=FOLDER, help="Folder that holds the data sets. [data]")
@option("--imagefolder", type=FOLDER, help="Folder that holds train/CLASS/* and val/CLASS/*. [--data]")
@option("--download", is_flag=True, help="Fetch data sets that are not there.")
@device_option
@out_option("runs/tables")
def table(**options: Any) -> int:
    """Run what a table of the paper needs, and print it with the paper's figures beside ours.

    Goes on where it was stopped; tables and protocols share finished work in --out. Exit code 1 when a job failed: its
    cells are empty.

    \b
    Examples:
      dsrna table 5 --scale smoke
      torchrun --nproc-per-node 4 -m cli table 2 --scale small --data DIR
      dsrna table 1 --scale paper --protocol equal --data DIR --dry-run
    """
    from experiments.tables.run import run_table

    result = run_table(**options)
    if result.text:  # of torchrun's processes only the first one has anything to say
        click.echo(result.text)
    print_paths(result.paths)
    for name, why in result.failed.items():
        click.echo(f"no result: {name}: {why}", err=True)
    return 1 if result.failed else 0


for command in (show, zoo, convert, verify, export):
    dsrna.add_command(command)


if __name__ == "__main__":
    sys.exit(main())
