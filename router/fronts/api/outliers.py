"""Fields of the admin API for a replica that is ejected or demoted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pointsman.router.fleet.replica import Replica
from pointsman.router.fronts.api.types import DemotionView
from pointsman.router.outliers.table import OutlierTable
from pointsman.router.process import clock


def view_outlier(outliers: OutlierTable, replica: Replica, now_s: float) -> dict[str, Any]:
    """The fields of a `ReplicaView` that say what follows from the replica's answers; empty for one that is well."""
    shown: dict[str, Any] = {}
    ejection = outliers.ejection(replica.slot)
    if ejection is not None and replica.ejected:
        shown |= {
            "cause": ejection.cause,
            "failures": ejection.failures,
            "since": _at(ejection.since_s, now_s),
            "until": _at(ejection.until_s, now_s),
        }
    demotion = outliers.demoted.get(replica.slot)
    if demotion is not None:
        shown["demotion"] = DemotionView(
            cause=demotion.cause, share=round(demotion.share, 3), ratio=round(demotion.ratio, 2)
        )
    return shown


def _at(when_s: float, now_s: float) -> str:
    """A moment of the monotonic clock as RFC 3339 in UTC."""
    moment = datetime.fromtimestamp(clock.wall() + when_s - now_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
