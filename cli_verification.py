"""Commands of `dsrna` that read and write the verification competition's files: verify, export."""

from __future__ import annotations

from typing import Any

import click

from cli_options import (
    FILE,
    NonNegatives,
    Positive,
    arch_option,
    at_least,
    data_options,
    option,
    out_option,
    print_paths,
    print_summary,
)


@click.command()
@option("--onnx", type=FILE, help="The network.")
@option("--property", "vnnlib", type=FILE, help="What must never happen: VNN-LIB 1.0, plain or gzip.")
@option("--instances", type=FILE, help="A benchmark's CSV file: lines NETWORK,PROPERTY,SECONDS.")
@option("--time-limit", type=Positive(), help="Seconds an instance. [the benchmark's; 60]")
@option("--resume", is_flag=True, help="Go on with the benchmark in --out; what is decided is not run again.")
@out_option("runs/verify")
def verify(**options: Any) -> None:
    """Decide whether a property of a network in an ONNX file holds.

    Prints the verification competition's answer: unsat (it holds, proven), sat and a counterexample, unknown, or
    timeout. Writes answer.txt and config.json; for a benchmark results.csv, counterexample_N.txt and cactus.png.
    Needs the packages of `pip install 'dsrna[onnx]'`.

    \b
    Examples:
      dsrna verify --onnx network.onnx --property property.vnnlib --time-limit 60
      dsrna verify --instances instances.csv --resume
    """
    from robust_nas.verification import run_verify

    result = run_verify(**options)
    click.echo(result.text, nl=False)
    print_summary(result.summary)
    print_paths(result.paths)


@click.command()
@arch_option
@option("--weights", type=FILE, required=True, help="Trained weights.")
@data_options
@option("--images", type=at_least(1), default=8, help="How many test images.")
@option(
    "--epsilon",
    "epsilons",
    type=NonNegatives(),
    metavar="E,E,...",
    required=True,
    help="l-infinity radii of the properties, in [0,1] pixels, such as 2/255,8/255.",
)
@option(
    "--domain",
    type=click.Choice(["unit", "free"]),
    default="unit",
    help="unit: perturbed pixels stay in [0,1]; free: they may leave it.",
)
@option("--time-limit", type=Positive(), default=60.0, help="Seconds an instance, for instances.csv.")
@out_option("runs/export")
def export(**options: Any) -> None:
    """Write a trained network as ONNX, and what is to be proven of it as VNN-LIB.

    Writes network.onnx, a VNN-LIB 1.0 file an image and radius, instances.csv and config.json: a benchmark for `dsrna
    verify` and for other verifiers. Needs the packages of `pip install 'dsrna[onnx]'`.

    \b
    Example:
      dsrna export --arch runs/search/genotype.json --weights runs/train/model.safetensors --epsilon 2/255
    """
    from robust_nas.exporting import run_export

    result = run_export(**options)
    print_summary(result.summary)
    print_paths(result.paths)
