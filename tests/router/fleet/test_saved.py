"""The state file: read whole or not at all."""

import asyncio
import errno
import threading
from pathlib import Path

import pytest
from router_fixture import client_of, register, running_router

from pointsman.router.errors import StateFileError
from pointsman.router.fleet.saved import SCHEMA_VERSION, SavedReplica, SavedState, StateFile
from pointsman.router.watch.state_file import StateKeeper


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Byte for byte the same state."""
    state = SavedState(
        replicas=[SavedReplica(id="a", url="http://h:1", host="10.0.0.1", port=1, draining=True)],
        policy={"policy": "random"},
    )
    file = StateFile(tmp_path / "state.json")
    file.save(state)
    assert file.load() == state
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"], "no partial file is left"


def test_no_file_is_an_empty_state(tmp_path: Path) -> None:
    """The first start."""
    assert StateFile(tmp_path / "none.json").load() == SavedState()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"{", "state_file", id="cut"),
        pytest.param(b'{"schema": %d}' % (SCHEMA_VERSION + 1), "is later than", id="later schema"),
        pytest.param(b'{"schema": 1, "replicas": [{"id": "a b", "url": "", "host": "", "port": 1}]}', "regex", id="id"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path, content: bytes, says: str) -> None:
    """Naming the file and what is wrong with it: whoever reads it decides what to do without."""
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(StateFileError, match=says):
        StateFile(path).load()


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """From its first byte on, also in a folder that everybody may read and in place of a file that they could."""
    tmp_path.chmod(0o755)
    path, partial = tmp_path / "state.json", tmp_path / "state.json.partial"
    for old in (path, partial):
        old.write_text("{}")
        old.chmod(0o644)
    StateFile(path).save(SavedState())
    assert path.stat().st_mode & 0o777 == 0o600
    assert not partial.exists()


async def test_a_router_starts_without_a_state_file_that_cannot_be_read(tmp_path: Path) -> None:
    """The file is kept aside, the router serves, takes registrations, saves them, and says that it is degraded."""
    path = tmp_path / "state.json"
    path.write_text("{")
    async with running_router(state_file=str(path)) as router, client_of(router) as client:
        ready = await client.get("/readyz?exclude=replicas")
        assert ready.status_code == 200
        assert f"degraded: state file: started without what was saved; it is kept as {path}.bad" in ready.text
        text = (await client.get("/metrics")).text
        assert "pointsman_state_files_set_aside_total 1.0" in text
        assert 'pointsman_degraded{part="state file"} 1.0' in text
        await register(router, "a")
    assert (tmp_path / "state.json.bad").read_text() == "{"
    assert [replica.id for replica in StateFile(path).load().replicas] == ["a"]


class FullDisk(StateFile):
    """A disk without room until it is freed."""

    full = True

    def save(self, state: SavedState) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().save(state)


async def test_a_state_the_disk_did_not_take_is_saved_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without another change: what was registered meanwhile is not lost by the next restart."""
    monkeypatch.setattr("pointsman.router.watch.state_file.MIN_BACKOFF_S", 0.001)
    monkeypatch.setattr("pointsman.router.watch.state_file.SAVE_DELAY_S", 0.001)
    file = FullDisk(tmp_path / "state.json")
    async with running_router() as router:
        await register(router, "a")
        keeper = StateKeeper(file, replicas=router.core.replicas, policy=router.core.policy, readiness=router.readiness)
        keeping = asyncio.create_task(keeper.run())
        keeper.changed()
        async with asyncio.timeout(20):
            while keeper.save_errors < 2:
                await asyncio.sleep(0.001)
        assert any("No space left on device" in why for why in router.readiness.impaired())
        file.full = False
        async with asyncio.timeout(20):
            while router.readiness.impaired():
                await asyncio.sleep(0.001)
        assert [replica.id for replica in file.load().replicas] == ["a"]
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_restarted_router_takes_over(tmp_path: Path) -> None:
    """Replicas, drain flags and the live policy are there before anybody registers again."""
    state_file = str(tmp_path / "state.json")
    async with running_router(state_file=state_file) as router, client_of(router) as client:
        await register(router, "a", "b")
        await client.post("/v1/replicas/b/drain")
        await client.put("/v1/policy", json={"policy": "round_robin"})
    async with running_router(state_file=state_file) as router, client_of(router) as client:
        listed = (await client.get("/v1/replicas")).json()["replicas"]
        assert {r["id"]: r["state"] for r in listed} == {"a": "up", "b": "draining"}
        assert (await client.get("/v1/policy")).json()["policy"] == "round_robin"


async def test_a_changed_configuration_wins_over_a_saved_policy(tmp_path: Path) -> None:
    """Whoever edits the file and restarts means it."""
    state_file = str(tmp_path / "state.json")
    async with running_router(state_file=state_file) as router, client_of(router) as client:
        await client.put("/v1/policy", json={"policy": "round_robin"})
    async with running_router(state_file=state_file, policy={"policy": "random"}) as router:
        assert router.core.pipeline.policy.name == "random"


class SlowFile(StateFile):
    """A disk that takes as long as it is told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.writes = threading.Event()
        self.may_end = threading.Event()

    def save(self, state: SavedState) -> None:
        self.writes.set()
        assert self.may_end.wait(30)
        super().save(state)


async def test_a_slow_disk_holds_up_no_lookup(tmp_path: Path) -> None:
    """The loop goes on while a state is written, and who stops waits for it: the last state is the last one written."""
    file = SlowFile(tmp_path / "state.json")
    async with running_router() as router:
        await register(router, "a")
        keeper = StateKeeper(file, replicas=router.core.replicas, policy=router.core.policy, readiness=router.readiness)
        keeping = asyncio.create_task(keeper.run())
        keeper.changed()
        await asyncio.to_thread(file.writes.wait, 30)
        await register(router, "b")  # answered by the loop, in the middle of the write
        keeping.cancel()
        assert not (tmp_path / "state.json").exists() and not keeping.done()
        file.may_end.set()
        await asyncio.gather(keeping, return_exceptions=True)
        assert [replica.id for replica in file.load().replicas] == ["a"]
        keeper.save()
        assert [replica.id for replica in file.load().replicas] == ["a", "b"]
