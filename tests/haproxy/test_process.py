"""Running HAProxy, with a stand-in executable: what is refused, what is reported, what is left behind."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from pointsman.haproxy import process as module
from pointsman.haproxy.binary import Binary
from pointsman.haproxy.config import Bind, EdgeConfig
from pointsman.haproxy.errors import ConfigError, HAProxyUnavailable, ProcessError
from pointsman.haproxy.process import FILE_NAMES, HAProxyProcess


def make_process(folder: Path, script: str, *, log_file: Path | None = None, **changes: object) -> HAProxyProcess:
    """A process whose haproxy is a shell script; `$1` is -c for a check and -W for a start."""
    binary = folder / "haproxy"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    values: dict[str, object] = {
        "binds": (Bind("127.0.0.1", 8000),),
        "ring_address": "127.0.0.1:9103",
        "spop_address": "127.0.0.1:9101",
        "admin_socket": str(folder / "run" / "admin.sock"),
    }
    edge = EdgeConfig(**(values | changes))  # type: ignore[arg-type]
    return HAProxyProcess(lambda: edge, folder / "run", log_file=log_file, binary=Binary(str(binary), "2.8.25"))


async def test_haproxys_own_words_about_a_bad_configuration(tmp_path: Path) -> None:
    """The check's output is the error; the files in use are not touched, the refused ones can be looked at."""
    process = make_process(tmp_path, 'echo "[ALERT] config : unknown keyword" >&2; exit 1')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "haproxy.cfg").write_text("the one that works")
    with pytest.raises(ConfigError, match=r"\[ALERT\] config : unknown keyword") as refused:
        await process.start()
    assert refused.value.key == "haproxy.cfg"
    assert Path(str(refused.value.value)).exists()
    assert (tmp_path / "run" / "haproxy.cfg").read_text() == "the one that works"
    assert process.pid is None


async def test_a_haproxy_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """Exit code and the end of the log; the files are in place for a look at them."""
    process = make_process(tmp_path, '[ "$1" = -c ] || { echo "cannot bind" >&2; exit 3; }')
    with pytest.raises(ProcessError, match=r"ended with code 3: cannot bind"):
        await process.start()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*FILE_NAMES, "haproxy.log"}
    assert await process.wait() == 3


async def test_a_haproxy_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start fails after its time, and no process stays."""
    monkeypatch.setattr(module, "START_S", 0.2)
    process = make_process(tmp_path, '[ "$1" = -c ] || exec sleep 1000')
    with pytest.raises(ProcessError, match="did not answer"):
        await process.start()
    assert process.pid is None
    assert await process.wait() == -15


async def test_a_haproxy_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing outlives its owner's patience."""
    monkeypatch.setattr(module, "START_S", 0.2)
    monkeypatch.setattr(module, "TERM_S", 0.2)
    process = make_process(tmp_path, "[ \"$1\" = -c ] || { trap '' TERM; while :; do sleep 0.05; done; }")
    with pytest.raises(ProcessError, match="did not answer"):
        await process.start()
    assert await process.wait() == -9


async def test_nothing_to_wait_for_or_to_reload(tmp_path: Path) -> None:
    """Before a start both say so; a stop has nothing to do."""
    process = make_process(tmp_path, "exit 0")
    with pytest.raises(ProcessError, match="was not started"):
        await process.wait()
    with pytest.raises(HAProxyUnavailable):
        await process.reload()
    await process.stop()
    process.kill()
    assert process.pid is None


async def started(process: HAProxyProcess) -> None:
    """A start of a stand-in that ends at once, after its files were put in place."""
    with pytest.raises(ProcessError, match="ended with code 3"):
        await process.start()


async def test_a_full_disk_keeps_no_haproxy_from_starting_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts with the files that were checked last, says why, and leaves nothing half written."""
    process = make_process(tmp_path, '[ "$1" = -c ] || exit 3')
    await started(process)
    before = {name: (tmp_path / "run" / name).read_bytes() for name in FILE_NAMES}

    def no_room(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_private", no_room)
    await started(process)
    assert "No space left on device" in process.fallback
    assert {name: (tmp_path / "run" / name).read_bytes() for name in FILE_NAMES} == before
    assert not (tmp_path / "run" / ".checked").exists()
    monkeypatch.undo()
    await started(process)
    assert process.fallback == ""


async def test_the_first_start_has_nothing_to_fall_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of an earlier run are of other ports: the error reaches whoever starts it."""
    (tmp_path / "run").mkdir()
    for name in FILE_NAMES:
        (tmp_path / "run" / name).write_text("of an earlier run")

    def no_room(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_private", no_room)
    with pytest.raises(OSError, match="No space left"):
        await make_process(tmp_path, "exit 0").start()


async def test_files_that_are_refused_later_keep_no_haproxy_from_starting_again(tmp_path: Path) -> None:
    """A saved replica that HAProxy does not take must not cost the edge."""
    process = make_process(tmp_path, '[ "$1" = -c ] || exit 3; [ ! -e ../../refuse ]')
    await started(process)
    (tmp_path / "refuse").touch()
    await started(process)
    assert "haproxy.cfg" in process.fallback


async def test_a_log_that_cannot_be_opened_keeps_no_haproxy_from_starting(tmp_path: Path) -> None:
    """What it says is lost; that it serves matters more."""
    process = make_process(tmp_path, '[ "$1" = -c ] || exit 3', log_file=tmp_path / "nowhere" / "haproxy.log")
    with pytest.raises(ProcessError, match="ended with code 3: it said nothing"):
        await process.start()


async def test_files_and_log_are_private_in_a_folder_that_is_not(tmp_path: Path) -> None:
    """A run folder that exists with mode 0755."""
    (tmp_path / "run").mkdir(mode=0o755)
    process = make_process(tmp_path, '[ "$1" = -c ] || exit 3')
    await started(process)
    names = (*FILE_NAMES, "haproxy.log")
    assert {stat.S_IMODE((tmp_path / "run" / name).stat().st_mode) for name in names} == {0o600}
