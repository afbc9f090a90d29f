"""The collectors of all that a `Core` counts."""

from __future__ import annotations

from pointsman.router.core import Core
from pointsman.router.metrics.families import FamilyCollector
from pointsman.router.metrics.holds import HoldCollector
from pointsman.router.metrics.kv import KVCollector
from pointsman.router.metrics.limits import LimitCollector
from pointsman.router.metrics.models import ModelCollector
from pointsman.router.metrics.outliers import OutlierCollector
from pointsman.router.metrics.requests import StateCollector
from pointsman.router.metrics.trials import TrialCollector


def core_collectors(core: Core) -> tuple[FamilyCollector, ...]:
    """Return the collectors in the order of their families on the page."""
    return (
        StateCollector(core),
        KVCollector(core.kv, core.replicas),
        ModelCollector(core.meter.counts),
        HoldCollector(core.holds),
        LimitCollector(core.limits),
        TrialCollector(core.trials),
        OutlierCollector(core.outliers, core.replicas),
    )
