"""The jobs of a table: searches, trainings, attacks and certifications, each in a folder of its own.

A folder is named by what is done in it, with a hash of all options that decide the result. So tables and protocols
share what they have in common, and finished work is found again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from experiments.tables.scale import Images, Options, Protocol, Row, Scale

RESULT = "result.json"
"""What a job leaves when it is done, written last."""
LOG = "log.txt"
HASH_LENGTH = 8


@dataclass(frozen=True)
class Job:
    """A call of `run_search`, `run_training`, `run_attack` or `run_certify`.

    Attributes:
        kind: search, train, attack or certify.
        subject: the method or the architecture, in words.
        setting: what else is worth reading in the name, such as data set and preset; jobs of one kind and setting take
            about the same time.
        options: the arguments that decide the result, without those that `after` gives.
        after: the job whose result this one needs: the search of a training, the training of the others.
    """

    kind: str
    subject: str
    setting: str
    options: Options
    after: Job | None = None

    @cached_property
    def identity(self) -> str:
        """A hash of everything that decides the result."""
        decides = [self.kind, self.options, self.after and self.after.identity]
        return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @cached_property
    def name(self) -> str:
        """Its folder among those of all jobs."""
        seed = f"seed{self.options['seed']}"
        return f"{self.kind}/{self.subject}_{self.setting}_{seed}_{self.identity[:HASH_LENGTH]}"

    @property
    def line(self) -> list[Job]:
        """This job and those that come before it, the first one first."""
        return [*(self.after.line if self.after else ()), self]

    def done(self, root: Path) -> bool:
        """Whether its result is there."""
        return (root / self.name / RESULT).exists()

    def arguments(self, root: Path) -> dict[str, Any]:
        """All arguments of the call but those of the machine; `root` holds the folders of all jobs."""
        arguments = {**self.options, "out": str(root / self.name)}
        if self.kind != "search":
            arguments["arch"] = self._arch(root)
        if self.kind in ("attack", "certify"):
            assert self.after is not None
            arguments["weights"] = str(root / self.after.name / "model.safetensors")
        return arguments

    def _arch(self, root: Path) -> str:
        if self.after is None:
            return str(self.options["arch"])
        if self.after.kind == "search":
            return str(root / self.after.name / "genotype.json")
        return self.after._arch(root)


def chain(
    scale: Scale,
    protocol: Protocol,
    row: Row,
    images: Images,
    seed: int,
    targeted: bool,
    channels: int | None = None,
) -> dict[str, Job]:
    """The jobs for a row on a data set, with one seed: "search" (not of a published architecture), "train", "attack",
    and "linf" and "l2", the certifications.

    Args:
        targeted: certify against one random class an image.
        channels: of the trained network; None for the preset's.
    """
    jobs: dict[str, Job] = {}
    if row.search is not None:
        jobs["search"] = _search({**scale.search, **protocol.search, **row.search}, images.search, seed)
    training = {**scale.train, **protocol.train, "recipe": protocol.recipe_of(row)}
    if channels is not None:
        training["channels"] = channels
    jobs["train"] = train = _train(training, jobs.get("search"), row, images, seed)
    of_images = {"dataset": images.train, "seed": seed}
    attack = {**scale.attack, **of_images}
    jobs["attack"] = Job("attack", train.subject, f"{train.setting}-{_images(attack)}", attack, train)
    for norm in ("linf", "l2"):
        certify = {**scale.certify, **of_images, "norm": norm, **({"targeted": True} if targeted else {})}
        kind = f"{norm}-targeted" if targeted else norm
        jobs[norm] = Job("certify", train.subject, f"{train.setting}-{kind}-{_images(certify)}", certify, train)
    return jobs


def graph(jobs: Iterable[Job]) -> list[Job]:
    """The jobs and all that they need, each once and after what it needs."""
    return list({each.name: each for job in jobs for each in job.line}.values())


def _search(options: Options, dataset: str, seed: int) -> Job:
    traits = [options["method"], options.get("space"), options.get("order"), options.get("metric"), options.get("stop")]
    words = dict.fromkeys(_word(trait) for trait in traits if trait not in (None, "none", "first"))
    subject = "-".join(words)
    return Job("search", subject, f"{dataset}-{options['preset']}", {**options, "dataset": dataset, "seed": seed})


def _train(options: Options, search: Job | None, row: Row, images: Images, seed: int) -> Job:
    width = f"-{options['channels']}-channels" if "channels" in options else ""
    setting = f"{options['recipe']}-{images.train}-{options['preset']}{width}"
    options = {**options, "dataset": images.train, "seed": seed}
    if search is None:
        return Job("train", f"published-{_word(str(row.zoo))}", setting, {**options, "arch": row.zoo})
    transferred = "" if images.search == images.train else f"-from-{images.search}"
    return Job("train", search.subject + transferred, setting, options, search)


def _images(options: Options) -> str:
    return f"{options['images']}-images"


def _word(text: str) -> str:
    """A part of a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("+", "-plus")).strip("-")
