"""`dsrna attack`."""

from __future__ import annotations

from cli.command import command, print_paths, print_summary
from robust_nas.options.attacks import AttackOptions


@command(AttackOptions)
def attack(options: AttackOptions) -> int:
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

    result = run_attack(options)
    print_summary(result.summary)
    print_paths(result.paths)
    return 1 if result.violated else 0
