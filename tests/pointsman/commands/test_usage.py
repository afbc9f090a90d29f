"""`pointsman usage`: a table of groups, and an export of rows."""

from __future__ import annotations

import json
from typing import Any

from drawn import assert_fits, drawn, pointsman
from telling_admin import Told, telling_admin

from pointsman.commands.usage import usage_table


def line(**about: Any) -> dict[str, Any]:
    figures = {"requests": 12, "prompt_tokens": 30_000, "cached_tokens": 20_000, "output_tokens": 2_000}
    return {"seconds": 7.5, "estimated": dict.fromkeys(figures, 0)} | figures | about


def report(*lines: dict[str, Any], by: tuple[str, ...] = ("tenant",), complete: bool = True) -> dict[str, Any]:
    time = {"from": "2026-11-01T00:00:00Z", "to": "2026-11-30T13:00:00Z"}
    return time | {"by": list(by), "complete": complete, "usage": list(lines)}


def test_usage_is_a_row_for_each_group() -> None:
    """Columns are what was asked for; estimates are a share of the tokens."""
    estimated = {"requests": 1, "prompt_tokens": 3000, "cached_tokens": 0, "output_tokens": 200}
    lines = (
        line(tenant="acme", day="2026-11-02T00:00:00Z"),
        line(tenant="zeta", day="2026-11-02T00:00:00Z", estimated=estimated),
    )
    text = drawn(usage_table(report(*lines, by=("tenant", "day"))))
    assert_fits(text)
    title, head, first, second = text.splitlines()
    assert title == "from 2026-11-01T00:00:00Z to 2026-11-30T13:00:00Z"
    assert head.split() == ["tenant", "day", "requests", "prompt", "cached", "output", "seconds", "estimated"]
    assert first.split() == ["acme", "2026-11-02T00:00:00Z", "12", "30,000", "20,000", "2,000", "8"]
    assert second.split()[-2:] == ["10.0", "%"]


def test_what_is_missing_is_said() -> None:
    """No usage at all, or none of other edges."""
    assert drawn(usage_table(report())).splitlines()[1] == "no usage"
    assert "usage of other edges is missing" in drawn(usage_table(report(line(tenant="a"), complete=False)))


def test_time_and_groups_go_to_the_router() -> None:
    """Only those that were given."""
    with telling_admin({"GET /v1/usage": report(line(tenant="acme"))}) as admin:
        done = pointsman("usage", "--from", "2026-11-01", "--by", "tenant", "--admin", admin.url)
        assert done.exit_code == 0 and "acme" in done.stdout
        assert admin.asked[-1].query == {"from": "2026-11-01", "by": "tenant"}


def test_an_export_is_printed_as_it_comes() -> None:
    """One JSON document a line; another word is refused before anybody is asked."""
    rows = tuple(json.dumps(line(tenant=name)).encode() for name in ("acme", "zeta"))
    with telling_admin({"GET /v1/usage/export": Told(lines=rows)}) as admin:
        done = pointsman("usage", "export", "--to", "2026-12-01", "--admin", admin.url)
        assert done.stdout.encode().splitlines() == list(rows)
        assert admin.asked[-1].query == {"to": "2026-12-01"}
        assert pointsman("usage", "import", "--admin", admin.url).exit_code == 2
        assert len(admin.asked) == 1
