"""Weights on disk: tensors in a safetensors file, and beside it a JSON sidecar that says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from robust_nas.data import Data
from robust_nas.files import read_json
from robust_nas.genotype import Architecture
from robust_nas.runs import Run
from robust_nas.spaces.network import Network
from verify.checks.errors import InputError

FORMAT = "dsrna-weights"
VERSION = 1


def save_weights(network: Network, path: Path, notes: Mapping[str, Any]) -> None:
    """Write the weights to `path` and their sidecar beside it, with the suffix .json.

    The sidecar holds the genotype, the network's settings, and `notes` (data set, seed, accuracy, ...).
    """
    sidecar = path.with_suffix(".json")
    sidecar.unlink(missing_ok=True)  # a stop between the two files must not leave one that tells of others
    run = Run(path.parent)
    run.save_tensors(path.name, network.state_dict())
    description = {
        "format": FORMAT,
        "version": VERSION,
        "genotype": network.genotype.to_dict(),
        "network": network.settings,
        **notes,
    }
    run.write_json(sidecar.name, description)


def load_network(arch: Architecture, weights: Path) -> tuple[Network, dict[str, Any]]:
    """Read weights that `save_weights` wrote.

    Returns:
        The network, on the CPU and in evaluation mode, and the sidecar.

    Raises:
        InputError: a file is missing or not what it should be, the weights belong to another architecture
            than `arch`, or one of them is not finite.
    """
    if not weights.is_file():
        raise InputError(f"{weights}: no such file; `dsrna train` writes weights")
    sidecar_path = weights.with_suffix(".json")
    sidecar = _read_sidecar(sidecar_path)
    _check_same(Architecture.from_dict(sidecar.get("genotype"), f"{sidecar_path}: genotype"), arch, weights)
    try:
        network = Network(arch, **sidecar["network"])
    except KeyError as error:
        raise InputError(f"{sidecar_path}: network: missing") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{sidecar_path}: network: builds no network: {error}") from error
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise InputError(f"{weights}: not a safetensors file: {error}") from error
    _check_tensors(tensors, network.state_dict(), weights)
    network.load_state_dict(tensors)
    return network.eval(), sidecar


def load_trained(arch: Architecture, weights: Path, data: Data) -> Network:
    """As `load_network`, for use on the data set that the weights were trained on.

    Raises:
        InputError: see `load_network`; or the weights were trained on another data set, or for another number of
            classes.
    """
    network, sidecar = load_network(arch, weights)
    trained_on = sidecar.get("dataset")
    if not isinstance(trained_on, str):
        raise InputError(f"{weights.with_suffix('.json')}: dataset: must be text, not {trained_on!r}")
    if trained_on != data.name:
        raise InputError(f"{weights}: these weights were trained on {trained_on}; add --dataset {trained_on}")
    classes = network.settings["classes"]
    if classes != data.classes:
        raise InputError(
            f"{weights}: these weights tell {classes} classes apart; the {data.name} given has {data.classes}"
        )
    return network


def _read_sidecar(path: Path) -> dict[str, Any]:
    sidecar = read_json(path, f"{path}: no such file; weights need it beside them, to say what they are")
    if not isinstance(sidecar, dict) or (sidecar.get("format"), sidecar.get("version")) != (FORMAT, VERSION):
        raise InputError(f"{path}: not a {FORMAT!r} file of version {VERSION}, which `dsrna train` writes")
    return sidecar


def _check_same(trained: Architecture, arch: Architecture, weights: Path) -> None:
    theirs, ours = ({"activation": each.activation, **each.to_dict()} for each in (trained, arch))
    for name in theirs:  # of another space they differ in it, which comes before the cells
        if name != "meta" and theirs[name] != ours[name]:
            raise InputError(
                f"{weights}: weights of another architecture: {name} is {theirs[name]} there, "
                f"{ours[name]} in the genotype given; train that first, or give the one that was trained"
            )


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], weights: Path) -> None:
    for name in {**expected, **tensors}:
        if name not in tensors:
            raise InputError(f"{weights}: weights of another architecture: {name} is missing")
        if name not in expected:
            raise InputError(f"{weights}: weights of another architecture: {name} is not part of the network")
        found, wanted = tuple(tensors[name].shape), tuple(expected[name].shape)
        if found != wanted:
            raise InputError(f"{weights}: weights of another architecture: {name} is {found}, not {wanted}")
        given, needed = tensors[name].dtype, expected[name].dtype
        if given.is_complex or given.is_floating_point != needed.is_floating_point:
            raise InputError(f"{weights}: {name} holds {given}, not {needed}")
        if not torch.isfinite(tensors[name].double()).all():
            raise InputError(f"{weights}: {name} holds NaN or infinity; train the network again")
