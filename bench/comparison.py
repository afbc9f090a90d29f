"""Results of `python -m bench.simulate`, as values and as Markdown: `python -m bench.comparison [FILE]`.

A `Comparison` is what bench/results/simulate.json holds. The command puts its tables between the markers of
docs/how-to-simulate.md, so that the page shows the file and nobody types figures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.report import put_between, rows_markdown
from pointsman.simulator.measure import Difference, Summary

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "simulate.json"
DOCS = ROOT / "docs" / "how-to-simulate.md"
BEGIN = "<!-- results: written by `python -m bench.comparison` -->"

OURS = "kv_cost"
SWEPT = "agentic"
"""The workload whose loads make one table."""
ABREAST = 5
"""Policies that stand side by side in a row."""

DETAIL = (
    *("policy", "mean", "p50", "p95", "p99", "later turns", "TPOT ms", "hit", "imbalance", "in SLO"),
    *("mean against", "p99 against"),
)


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario: what was played, averages over seeds by policy, and ours against each."""

    name: str
    workload: str
    load: float
    seeds: list[int]
    fleet: dict[str, Any]
    """`FleetSettings`, as JSON."""
    documents: dict[str, dict[str, Any]]
    policies: dict[str, Summary]
    kv_cost_against: dict[str, Difference]

    @property
    def plain(self) -> bool:
        """A load of the swept workload, on the fleet as it is."""
        return self.name == f"{SWEPT} at {self.load}"

    @property
    def peers(self) -> list[str]:
        """All policies but ours, with whatever settings."""
        return [name for name, document in self.documents.items() if document["policy"] != OURS]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All scenarios."""

    machine: str
    python: str
    command: str
    runs: list[Compared]

    def markdown(self) -> str:
        """By load, other workloads and fleets, and in detail what was played with most seeds or policies."""
        runs = sorted(self.runs, key=lambda run: run.load)
        seeds = max(len(run.seeds) for run in runs)
        detailed = [run for run in runs if run.peers and (len(run.seeds) == seeds or len(run.policies) > ABREAST)]
        parts = [
            f"`{SWEPT}` by load, in brackets the number of seeds. TTFT mean / p99 in ms, TPOT in ms, share in SLO:",
            overview([run for run in runs if run.plain]),
            "Other workloads and fleets, likewise:",
            overview([run for run in runs if not run.plain and len(run.policies) <= ABREAST]),
            *(part for run in detailed for part in (f"{run.name}, seeds {str(run.seeds)[1:-1]}:", detail(run))),
        ]
        return "\n\n".join(parts)


def detail(compared: Compared) -> str:
    """One scenario: policies by mean TTFT, and how ours compares with each."""
    rows = []
    for policy, said in sorted(compared.policies.items(), key=lambda item: item[1].ttft_ms.mean):
        ttft, later = said.ttft_ms, said.later_ttft_ms
        against = ("", "")
        if policy in compared.peers:
            found = compared.kv_cost_against[policy]
            against = (
                f"{_percent(found.mean_ttft)} ± {found.mean_ttft_error:.0%}, {found.lower_mean} of {found.seeds}",
                f"{_percent(found.p99_ttft)} ± {found.p99_ttft_error:.0%}, {found.lower_p99} of {found.seeds}",
            )
        rows.append(
            (
                _label(policy),
                *(f"{value:,.0f}" for value in (ttft.mean, ttft.p50, ttft.p95, ttft.p99)),
                f"{later.mean:,.0f} / {later.p99:,.0f}",
                f"{said.tpot_ms.mean:.1f}",
                f"{said.hit_rate:.3f}",
                f"{said.imbalance:.2f}",
                f"{said.within_slo:.2f}",
                *against,
            )
        )
    return rows_markdown(DETAIL, rows)


def overview(scenarios: Sequence[Compared]) -> str:
    """One row a scenario: policies side by side, and ours against the peer best in mean and the one best in p99."""
    policies = _policies(scenarios)
    rows = []
    for run in scenarios:
        cells = [_cell(run.policies[policy]) if policy in run.policies else "" for policy in policies]
        rows.append((f"{run.name} ({len(run.seeds)})", *cells, *_against_best(run)))
    columns = ("scenario (seeds)", *map(_label, policies), "mean against the best", "p99 against the best")
    return rows_markdown(columns, rows)


def _policies(scenarios: Iterable[Compared]) -> list[str]:
    """Ours and the peers that most of the scenarios were played with."""
    played = [policy for run in scenarios if run.peers for policy in (OURS, *run.peers)]
    return [policy for policy in dict.fromkeys(played) if 2 * played.count(policy) > played.count(OURS)]


def _against_best(run: Compared) -> tuple[str, str]:
    if not run.peers:
        return "", ""
    mean = min(run.peers, key=lambda peer: run.policies[peer].ttft_ms.mean)
    tail = min(run.peers, key=lambda peer: run.policies[peer].ttft_ms.p99)
    against = run.kv_cost_against
    return (
        f"{_percent(against[mean].mean_ttft)}, {_label(mean)}",
        f"{_percent(against[tail].p99_ttft)}, {_label(tail)}",
    )


def _cell(said: Summary) -> str:
    return f"{said.ttft_ms.mean:,.0f} / {said.ttft_ms.p99:,.0f}, {said.tpot_ms.mean:.1f}, {said.within_slo:.2f}"


def _label(policy: str) -> str:
    name, comma, setting = policy.partition(",")
    return f"`{name}`{comma}{setting}"


def _percent(share: float) -> str:
    percent = round(share * 100)
    return f"{percent:+d}%" if percent else "0%"


def read_comparison(path: Path) -> Comparison:
    return msgspec.json.decode(path.read_bytes(), type=Comparison)


def write_docs(comparison: Comparison, page: Path = DOCS) -> None:
    """Put the tables onto the page."""
    page.write_text(put_between(page.read_text(), comparison.markdown(), BEGIN))


if __name__ == "__main__":
    write_docs(read_comparison(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS))
