"""`pointsman doctor`: an installation checked line by line, each fault with what mends it."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from rich.table import Table
from rich.text import Text

from pointsman.commands.finding import Finding, unknown
from pointsman.commands.inquiry import Inquiry
from pointsman.commands.machine_checks import machine_findings
from pointsman.commands.options import EXIT_NO
from pointsman.commands.router_checks import router_findings, settings_of
from pointsman.commands.settings_checks import Settings, flat, now_s, settings_findings
from pointsman.router.settings import load_settings

HAPROXY_VARIABLE = "POINTSMAN_HAPROXY"

MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("-", "dim")}


def run_doctor(inquiry: Inquiry, config: Path | None) -> int:
    """Print all findings; 1 when something is wrong, else 0. Raises SettingsError for a file that is.

    config: settings file of the router; None: the router is asked for its settings.
    """
    findings = list(_all(inquiry, config))
    if inquiry.as_json:
        print(json.dumps({"findings": [dataclasses.asdict(finding) for finding in findings]}))
    else:
        inquiry.console.print(findings_shown(findings))
        count = sum(finding.is_well is False for finding in findings)
        print(f"\n{count} to mend" if count else "\nall is well")
    return EXIT_NO if any(finding.is_well is False for finding in findings) else 0


def _all(inquiry: Inquiry, config: Path | None) -> Iterator[Finding]:
    hard, _ = resource.getrlimit(resource.RLIMIT_NOFILE)[1], None
    yield from machine_findings(haproxy=os.environ.get(HAPROXY_VARIABLE, ""), open_files=hard)
    settings: Settings | None
    if config is not None:
        settings = flat(msgspec.to_builtins(load_settings(config)))
    else:
        settings = settings_of(inquiry.client)
    if settings is None:
        yield unknown("settings", "the router does not say them", "name its file with --config")
    else:
        yield from settings_findings(settings, wall=now_s)
    yield from router_findings(inquiry.client, wall=now_s)


def findings_shown(findings: Iterable[Finding]) -> Table:
    """A line for each finding, and below a fault what mends it."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, max_width=22, overflow="ellipsis")
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.is_well]
        said = Text(finding.said)
        if finding.remedy:
            said.append(f"\n-> {finding.remedy}", style="cyan")
        table.add_row(Text(mark, style=style), finding.subject, said)
    return table
