"""Errors of the simulator.

SimulationError
    TraceError           configuration: a trace file cannot be read; names file, line, field and what was expected
    ExperimentError      configuration: an option does not fit the others; names it, its value and what was expected

Anything else that escapes is a programming error.
"""

from __future__ import annotations

from pointsman.contract.errors import ConfigurationError


class SimulationError(Exception):
    """Base of all errors the simulator raises on purpose."""


class TraceError(SimulationError):
    """A trace cannot be understood."""


class ExperimentError(ConfigurationError, SimulationError):
    """An option of an experiment that cannot be simulated."""
