"""Pieces of PromQL that many panels share."""

from __future__ import annotations

EDGE = 'edge=~"$edge"'
MODEL = f'{EDGE}, model=~"$model"'
TENANT = f'{MODEL}, tenant=~"$tenant"'
REPLICA = f'{EDGE}, replica=~"$replica"'
ENGINE = 'replica=~"$replica"'
"""Labels of engines' own series, which Prometheus scrapes from the replicas."""


def series(name: str, labels: str = EDGE, **more: str) -> str:
    """The series of a metric with these matchers; `more` are labels and the values they must have."""
    matchers = ", ".join([labels, *(f'{label}="{value}"' for label, value in more.items())])
    return f"{name}{{{matchers}}}"


def rate(name: str, labels: str = EDGE, *, by: str = "") -> str:
    """The rate of a counter a second, summed; `by` names the labels that are kept, separated by commas."""
    return f"sum{_by(by)}(rate({series(name, labels)}[$__rate_interval]))"


def increase(name: str, labels: str = EDGE, *, by: str = "", over: str = "$__range") -> str:
    """The increase of a counter over a range, summed."""
    return f"sum{_by(by)}(increase({series(name, labels)}[{over}]))"


def ratio(numerator: str, denominator: str, *, zero: bool = False) -> str:
    """A ratio; with `zero`, a numerator without series counts as 0."""
    return f"({numerator} or vector(0)) / {denominator}" if zero else f"{numerator} / {denominator}"


def quantile(share: float, name: str, labels: str = EDGE, *, by: str = "") -> str:
    """A quantile of a histogram; `name` is without `_bucket`."""
    kept = f"{by}, le" if by else "le"
    return f"histogram_quantile({share:g}, {rate(f'{name}_bucket', labels, by=kept)})"


def mean(name: str, labels: str = EDGE, *, by: str = "") -> str:
    """The mean of a histogram's observations."""
    return ratio(rate(f"{name}_sum", labels, by=by), rate(f"{name}_count", labels, by=by))


def most(name: str, labels: str = EDGE, *, by: str = "edge") -> str:
    """The largest value of a gauge."""
    return f"max{_by(by)}({series(name, labels)})"


def total(name: str, labels: str = EDGE, *, by: str = "") -> str:
    """The sum of a gauge."""
    return f"sum{_by(by)}({series(name, labels)})"


def busiest(expression: str, most: int = 20) -> str:
    """The largest series at each moment: a thousand replicas in one plot tell nobody anything."""
    return f"topk({most}, {expression})"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""
