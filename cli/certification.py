"""`dsrna certify` and `dsrna audit`."""

from __future__ import annotations

from cli.command import command, print_paths, print_summary
from robust_nas.options.certification import AuditOptions, CertifyOptions


@command(CertifyOptions)
def certify(options: CertifyOptions) -> None:
    """Certify a network: the largest radius at which no perturbation changes its answer, image by image.

    Writes certify.csv, config.json, certify.png, extremes.png, and verified.csv where radii are given.

    \b
    Examples:
      dsrna certify --norm linf --arch runs/search/genotype.json
      dsrna certify --norm l2 --arch runs/search/genotype.json \\
          --weights runs/train/model.safetensors --epsilon 0.1,0.3
    """
    from robust_nas.certification import run_certify

    result = run_certify(options)
    print_summary(result.summary)
    print_paths(result.paths)


@command(AuditOptions)
def audit(options: AuditOptions) -> int:
    """Try to break certificates: samples, gradient attacks and a float64 re-check inside each certified ball.

    Writes audit.csv and config.json. Exit code 1 when a certificate breaks. The norm is that of the certificates;
    their domain is read from the config.json beside them.

    \b
    Example:
      dsrna audit --arch runs/search/genotype.json --weights runs/train/model.safetensors \\
          --certificates runs/certify/certify.csv
    """
    from robust_nas.certification import run_audit

    result = run_audit(options)
    print_summary(result.summary)
    print_paths(result.paths)
    return 1 if result.broken else 0
