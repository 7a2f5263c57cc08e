"""Commands about the verification competition's files: verify, export."""

from __future__ import annotations

from cli.command import command, print_paths, print_summary, print_text
from robust_nas.options.verification import ExportOptions, VerifyOptions


@command(VerifyOptions)
def verify(options: VerifyOptions) -> None:
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

    result = run_verify(options)
    print_text(result.text)
    print_summary(result.summary)
    print_paths(result.paths)


@command(ExportOptions)
def export(options: ExportOptions) -> None:
    """Write a trained network as ONNX, and what is to be proven of it as VNN-LIB.

    Writes network.onnx, a VNN-LIB file an image and radius, instances.csv and config.json: a benchmark for `dsrna
    verify` and for other verifiers. Needs the packages of `pip install 'dsrna[onnx]'`.

    \b
    Examples:
      dsrna export --arch runs/search/genotype.json --weights runs/train/model.safetensors --epsilon 2/255
      dsrna export --arch runs/search/genotype.json --weights runs/train/model.safetensors \\
          --certificates runs/certify/certify.csv --vnnlib 2
    """
    from robust_nas.exporting import run_export

    result = run_export(options)
    print_summary(result.summary)
    print_paths(result.paths)
