"""Reads a Dockerfile far enough to check it without a daemon: instructions, stages, what a build may copy."""

from __future__ import annotations

import json
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    """One instruction of one stage; stages count from 0."""

    stage: int
    word: str
    text: str

    @property
    def words(self) -> list[str]:
        """The arguments: of the JSON form, or split as a shell does."""
        return list(json.loads(self.text)) if self.text.startswith("[") else shlex.split(self.text)


class Dockerfile:
    """The instructions of a file, continuation lines joined, comments left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.instructions: list[Instruction] = []
        lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
        stage = -1
        for line in "\n".join(lines).replace("\\\n", " ").splitlines():
            word, _, text = line.partition(" ")
            stage += word == "FROM"
            self.instructions.append(Instruction(stage, word, text.strip()))
        self.last_stage = stage

    def of(self, word: str, *, last_stage: bool = False) -> list[Instruction]:
        """All instructions with this word, of the whole file or of the image that comes out."""
        return [
            one for one in self.instructions if one.word == word and (one.stage == self.last_stage or not last_stage)
        ]

    def stage_names(self) -> list[str]:
        """Names of the stages that have one."""
        return [one.words[-1] for one in self.of("FROM") if "AS" in one.words]

    def copied(self) -> list[str]:
        """What COPY takes from the build context."""
        sources = []
        for one in self.of("COPY"):
            if not any(word.startswith("--from=") for word in one.words):
                sources += [word for word in one.words[:-1] if not word.startswith("--")]
        return sources

    def lets_through(self, source: str) -> bool:
        """Whether the .dockerignore beside the file lets `source` into the build; the last pattern that fits wins."""
        allowed = True
        for line in Path(f"{self.path}.dockerignore").read_text().splitlines():
            pattern = line.strip().removeprefix("!")
            if not pattern or pattern.startswith("#"):
                continue
            if fnmatch(source, pattern) or source.startswith(pattern + "/"):
                allowed = line.startswith("!")
        return allowed
