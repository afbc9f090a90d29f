"""`pointsman doctor`: a checklist, each fault with what mends it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from drawn import assert_fits, drawn, pointsman
from golden import assert_golden
from router_fixture import register, running_router

from pointsman.commands.doctor import findings_shown
from pointsman.commands.finding import unknown, well, wrong

GOLDEN = Path(__file__).parent / "golden"


def test_findings_are_a_checklist() -> None:
    """A mark, the subject, what was found, and below a fault the command that mends it."""
    text = drawn(
        findings_shown(
            [
                well("Python", "3.11.7 at /opt/pointsman/bin/python"),
                wrong("admin socket", "/run/pointsman/admin.sock: No such file or directory", "start HAProxy"),
                unknown("store", "none: this edge shares nothing"),
                wrong("replica a-plain-endpoint-of-the-other-team-17", "The health check failed. " * 6, "pointsman x"),
            ]
        )
    )
    assert_golden(GOLDEN / "doctor.txt", text)
    assert_fits(text)


async def test_a_real_router_is_checked() -> None:
    """Well, and then without replicas; with the settings that it says itself."""
    async with running_router() as router:
        where = ("--admin", str(router.addresses["admin"]))
        without = await asyncio.to_thread(pointsman, "doctor", *where)
        assert without.exit_code == 1 and "none is registered" in without.stdout and "to mend" in without.stdout
        await register(router, "a")
        done = await asyncio.to_thread(pointsman, "doctor", *where)
        assert done.exit_code == 0, done.output
        assert "✓ admin API" in done.stdout and "- state file" in done.stdout and "all is well" in done.stdout
        listed = json.loads((await asyncio.to_thread(pointsman, "doctor", "--json", *where)).stdout)["findings"]
        assert {"subject": "replicas", "said": "1 of 1 are up", "is_well": True, "remedy": ""} in listed


def test_nobody_at_the_address_is_a_fault_among_others(tmp_path: Path) -> None:
    """What can be checked without a router is checked."""
    config = tmp_path / "router.yaml"
    config.write_text(f"state_file: {tmp_path}/state.json\n")
    done = pointsman("doctor", "--config", str(config), "--admin", "127.0.0.1:1")
    assert done.exit_code == 1 and "✓ Python" in done.stdout and "✓ state file" in done.stdout
    assert "✗ router" in done.stdout and "Connection refused" in done.stdout


def test_a_settings_file_with_a_mistake_is_exit_code_2(tmp_path: Path) -> None:
    """Named by file and key."""
    config = tmp_path / "router.yaml"
    config.write_text("state_fil: x\n")
    done = pointsman("doctor", "--config", str(config), "--admin", "127.0.0.1:1")
    assert done.exit_code == 2 and f"{config}: state_fil: unknown key" in done.stderr
