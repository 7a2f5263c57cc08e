"""Answers as the verification competition (VNN-COMP) writes them."""

from __future__ import annotations

from collections.abc import Mapping

from verify.complete.proving import PropertyVerdict

WORDS: Mapping[str, str] = {"holds": "unsat", "violated": "sat", "unknown": "unknown", "timeout": "timeout"}


def competition_answer(found: PropertyVerdict) -> str:
    """`unsat`, `unknown`, `timeout`, or `sat` and the counterexample: inputs and outputs, in the files' order."""
    lines = [WORDS[found.verdict]]
    if found.counterexample is not None and found.outputs is not None:
        sides = {"X": found.counterexample, "Y": found.outputs}
        pairs = [
            f"({letter}_{number} {value!r})"
            for letter, side in sides.items()
            for number, value in enumerate(side.double().flatten().tolist())
        ]
        lines += ["(" + "\n ".join(pairs) + ")"]
    return "\n".join(lines) + "\n"
