"""Attacks on trained networks, over foolbox and pyautoattack, with guards against numbers that mean nothing.

An attack on a network in memory:

    with under_attack(network):
        target = Target.of(network, examples, device, batch_size=128)
        outcomes = evaluate(target, ATTACKS["pgd-100"], Threat("linf", 8 / 255), seed=0)
"""

from robust_nas.attacks.base import Attack, under_attack
from robust_nas.attacks.evaluate import Target, evaluate
from robust_nas.attacks.outcomes import Attacked, Outcome
from robust_nas.attacks.run import AttackResult, run_attack
from robust_nas.attacks.threats import Threat
from robust_nas.registry import ATTACKS
