"""What test_tidy.py lets stand, each with its reason. What no longer needs its line fails until it is taken off."""

from __future__ import annotations

UPWARD: dict[tuple[str, str], str] = {}
"""Arrows of `router/` that point back up, from one box to another."""

PLAIN_DATA: tuple[str, ...] = ()
"""Modules of values and errors alone: nothing in them can be wrong by itself."""

TESTED_BY: dict[str, str] = {}
"""Modules without a test of their name, and the file in `tests/` that tests them through what they are part of."""

CONSTRUCTORS: dict[str, str] = {}
"""Classes that are built from more than eight arguments."""

LARGE_CLASSES: dict[str, str] = {}
"""Classes of more than twenty methods."""

FUNCTIONS: dict[str, str] = {}
"""Functions of more than sixty lines."""
