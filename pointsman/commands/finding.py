"""One line of `pointsman doctor`: what was looked at, whether it is well, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    subject: str
    """Name of the thing that was looked at, in a word or two."""
    said: str
    """Observation in a sentence."""
    is_well: bool | None = True
    """Whether the thing needs no mending; None for a thing that could not be looked at, or does not apply."""
    remedy: str = ""
    """Command or setting that mends it."""


def well(subject: str, said: str) -> Finding:
    """Nothing is to be done."""
    return Finding(subject, said)


def wrong(subject: str, said: str, remedy: str) -> Finding:
    """Something is to be done."""
    return Finding(subject, said, False, remedy)


def unknown(subject: str, said: str, remedy: str = "") -> Finding:
    """Nothing could be seen."""
    return Finding(subject, said, None, remedy)
