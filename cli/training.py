"""`dsrna train`."""

from __future__ import annotations

from cli.command import command, print_paths, print_summary
from robust_nas.options.training import TrainOptions


@command(TrainOptions)
def train(options: TrainOptions) -> None:
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

    result = run_training(options)
    print_summary(result.summary)
    print_paths([result.weights_path])
