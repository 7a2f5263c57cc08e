"""Which attacks run, and at which epsilons."""

from __future__ import annotations

from collections.abc import Sequence

from robust_nas.attacks.base import Attack
from robust_nas.attacks.threats import Threat, paper_epsilons
from robust_nas.registry import ATTACKS
from verify.checks.errors import InputError, known_names

LARGEST = 1e6
"""Of the epsilons that one may ask for: larger than any image in any norm, and float32 holds its square."""
ALIASES = {"pgd": "pgd-100"}
"""A plain `pgd` is the strongest one."""


def choose(
    names: Sequence[str] | None, norm: str | None, epsilon: float | None, dataset: str
) -> list[tuple[Attack, Threat]]:
    """The attacks to run, each with its threat model, in the order of their names.

    Args:
        names: keys of `ATTACKS` or `ALIASES`; None for all attacks that know the norm.
        norm: of all attacks; None runs each in the paper's, AutoAttack in l-infinity and in l2.
        epsilon: of all attacks, in [0,1] pixels; None takes the paper's for the data set, see `threats`. PGD has the
            paper's step at the paper's epsilons alone: at a larger one it would not lead far enough.

    Raises:
        InputError: an attack is unknown or does not know the norm, one epsilon is given for two norms, or it is not
            above 0 or beyond `LARGEST`.
    """
    if names is None:
        names = [name for name, attack in ATTACKS.items() if norm is None or norm in attack.norms]
    attacks = [_named(ALIASES.get(name, name)) for name in names]
    if not attacks:
        raise InputError(f"no attack is named; known: {', '.join([*ATTACKS, *ALIASES])}")
    chosen = {(attack, each): None for attack in attacks for each in _norms(attack, norm)}
    if epsilon is not None and len({each for _, each in chosen}) > 1:
        raise InputError("--epsilon is one number, and these attacks are of two norms; add --norm linf or --norm l2")
    if epsilon is not None:
        if epsilon > LARGEST:
            raise InputError(f"epsilon must be at most {LARGEST:g}, not {epsilon}")
        return [(attack.at_any_epsilon(), Threat(each, epsilon)) for attack, each in chosen]
    return [(attack, Threat(each, attack.epsilon(each, paper_epsilons(dataset)))) for attack, each in chosen]


def _named(name: str) -> Attack:
    if name not in ATTACKS:
        raise InputError(f"unknown attack {name!r}; {known_names(name, [*ATTACKS, *ALIASES])}")
    return ATTACKS[name]


def _norms(attack: Attack, norm: str | None) -> tuple[str, ...]:
    if norm is None:
        return attack.paper_norms
    if norm not in attack.norms:
        raise InputError(f"{attack.name} is an {attack.norms[0]} attack; leave out --norm {norm}, or {attack.name}")
    return (norm,)
