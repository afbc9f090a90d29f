"""Scenes in which somebody lies, something dies or an outsider asks, and what honest clients see: one row each.

Each scene starts an edge of its own by `pointsman up`, does one bad thing to it while honest clients go on, and says
what they saw beside what was expected. `bench.faults` is about replicas that fail; here it is about clients, operators
and the parts of the edge.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import yaml

from bench.edge import PATH
from bench.ground import Ground, ground
from bench.peers import say
from bench.report import Table

MEGABYTE = 1_000_000
SPREAD_MAX = 1.3
AGREE_S = 2.0


@dataclass(frozen=True)
class Row:
    """The outcome of one scene beside what was expected."""

    number: int
    what: str
    expected: str
    seen: str
    holds: bool


Played = tuple[str, bool]
"""Text of what was seen, and whether it is as expected."""
Play = Callable[[], Awaitable[Played]]
Scene = Callable[[], Awaitable[Row]]


def scene(number: int, what: str, expected: str) -> Callable[[Play], Scene]:
    """Make a row of what a scene sees."""

    def of(play: Play) -> Scene:
        @wraps(play)
        async def row() -> Row:
            return Row(number, what, expected, *await play())

        return row

    return of


def spread(answers: Sequence[httpx.Response], replicas: int = 4) -> float:
    """The most any replica served over the mean."""
    served = Counter(answer.headers.get("x-pointsman-replica", "") for answer in answers)
    return max(served.values()) * replicas / len(answers)


@scene(2, "three idle connections that announce 30 MB each", f"max/mean of honest requests at most {SPREAD_MAX}")
async def idle_lies() -> Played:
    """Three connections announce 30 MB each and go silent."""
    async with ground(engine={"token_interval_ms": 5}) as here:
        lies = [here.lie(30 * MEGABYTE) for _ in range(3)]
        await asyncio.sleep(1)
        answers = await here.many()
        for lying in lies:
            lying.close()
    found = spread(answers)
    good = sum(answer.status_code == 200 for answer in answers)
    return (f"{found:.2f}; {good} of {len(answers)} good", found <= SPREAD_MAX and good == len(answers))


@scene(2, "admission, and lies of 30 MB, 2^62 and 2^63 - 1 bytes", "no 429, no score above a minute")
async def lie_with_admission() -> Played:
    """With session admission, a lie of 30 MB and one of 2^63 - 1 before honest conversations."""
    router = {"policy": {"policy": "kv_cost", "admission": {"limit": 0.9}}}
    async with ground(router=router) as here:
        await here.chat()
        for announced in (30 * MEGABYTE, 2**62, 2**63 - 1):
            here.lie(announced).close()
        await asyncio.sleep(1)
        answers = await here.many()
        explained = (await here.admin.post("/v1/explain", json={"body_bytes": 1000})).json()
    refused = sum(answer.status_code == 429 for answer in answers)
    worst = max(abs(candidate["score"] or 0.0) for candidate in explained["candidates"])
    return (f"{refused} of {len(answers)} 429; largest score {worst:.0f} ms", refused == 0 and worst < 60_000)


@scene(
    3,
    "five reloads, a long stream and 50 short ones at each",
    f"reservations equal streams within {AGREE_S:g} s of the last end",
)
async def five_reloads() -> Played:
    """One long stream, and short streams under way at each of five reloads."""
    async with ground(engine={"token_interval_ms": 20}) as here:
        long = asyncio.create_task(_stream(here, 3000))
        worst_s, lost = 0.0, 0
        for _ in range(5):
            short = [asyncio.create_task(_stream(here, 100)) for _ in range(50)]
            await asyncio.sleep(0.5)
            os.kill(here.side.processes.root, signal.SIGHUP)
            ended = await asyncio.gather(*short)
            lost += sum(not whole for whole in ended)

            async def agree() -> bool:
                return await here.metric("pointsman_reservations") == 1

            ended_s = time.perf_counter()
            worst_s = max(worst_s, await here.until("reservations equal streams", agree) - ended_s)
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
    return (f"{worst_s:.2f} s at worst; {lost} of 250 cut", worst_s <= AGREE_S and lost == 0)


async def _stream(here: Ground, tokens: int) -> bool:
    """Reads a stream of so many tokens; True when it came whole."""
    body = {
        "model": "sim", "stream": True, "max_tokens": tokens, "ignore_eos": True,
        "messages": [{"role": "user", "content": os.urandom(20).hex()}],
    }  # fmt: skip
    try:
        async with here.client.stream("POST", PATH, json=body, timeout=120) as answer:
            ended = False
            async for line in answer.aiter_lines():
                ended = ended or line == "data: [DONE]"
            return ended
    except httpx.HTTPError:
        return False


@scene(8, "state file corrupt, then the router killed", "0 refused connections, the router returns")
async def corrupt_state() -> Played:
    """The state file becomes unreadable and the router is killed."""
    async with ground() as here:
        assert here.side.run_dir is not None
        (here.side.run_dir / "state.json").write_text("{")
        os.kill(here.pid(" router --config"), signal.SIGKILL)
        answers: list[int] = []
        deadline_s = time.perf_counter() + 5
        while time.perf_counter() < deadline_s:
            answers.append(await _status(here))
            await asyncio.sleep(0.02)

        async def back() -> bool:
            return str((await here.chat()).headers.get("x-pointsman-reason")) != "fail-open"

        back_s = await here.until("the router", back) - deadline_s
    refused = sum(status == 0 for status in answers)
    good = sum(status == 200 for status in answers)
    return (
        f"{refused} refused, {good} of {len(answers)} good; deciding again {back_s + 5:.1f} s after the kill at most",
        refused == 0 and good == len(answers),
    )


async def _status(here: Ground) -> int:
    """Status of one request; 0 where the connection was refused or ended without an answer."""
    try:
        return (await here.chat()).status_code
    except httpx.HTTPError:
        return 0


@scene(9, "a second `up` in the same run folder", "refused in one sentence, the first goes on")
async def second_up() -> Played:
    """A second `up` in the run folder of a running one."""
    async with ground() as here:
        assert here.side.run_dir is not None
        argv = [sys.executable, "-m", "pointsman", "up", "--run-dir", str(here.side.run_dir), "--replicas", "1"]
        argv += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        second = await asyncio.create_subprocess_exec(
            *argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ.copy()
        )
        _, words = await second.communicate()
        await asyncio.sleep(2)
        ready = (await here.admin.get("/readyz")).status_code
        statuses = Counter(answer.status_code for answer in await here.many(30))
        assert second.returncode is not None
    return (
        f"exit code {second.returncode}, {len(words.strip().splitlines())} line; first: /readyz {ready}, "
        f"{statuses[200]} of 30 good",
        second.returncode != 0 and ready == 200 and statuses[200] == 30,
    )


@scene(10, "200 clients that send and leave at once", "pointsman_fail_open_total +0")
async def leaving_clients() -> Played:
    """Clients that send a request and leave at once."""
    async with ground() as here:
        before = await here.metric("pointsman_fail_open_total")
        for _ in range(20):
            leaving = [socket.create_connection(("127.0.0.1", here.side.port)) for _ in range(10)]
            for one in leaving:
                one.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
                one.close()
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        counted = await here.metric("pointsman_fail_open_total") - before
    return (f"+{counted:.0f}", counted == 0)


@scene(5, "what a web page can make a browser ask the admin API, and a misspelt parameter", "refused, nothing changes")
async def web_page() -> Played:
    """Requests a web page in an operator's browser could make."""
    async with ground() as here:
        drain, json_type = "/v1/replicas/sim-1/drain", {"content-type": "application/json"}
        asked = {
            "cross-site form": await here.admin.post(
                drain, headers={"origin": "https://attacker.example", "sec-fetch-site": "cross-site"}
            ),
            "rebinding Host": await here.admin.post(drain, headers={"host": "rebind.attacker.example"}),
            "text/plain": await here.admin.put("/v1/policy", content=b"{}", headers={"content-type": "text/plain"}),
            "?dryrun": await here.admin.put(
                "/v1/policy?dryrun=true", content=b'{"policy": "random"}', headers=json_type
            ),
        }
        states = list((await here.states()).values())
        policy = (await here.admin.get("/v1/policy")).json()["policy"]
    statuses = ", ".join(f"{what} {answer.status_code}" for what, answer in asked.items())
    return (
        statuses,
        all(400 <= answer.status_code < 500 for answer in asked.values())
        and set(states) == {"up"}
        and policy == "kv_cost",
    )


@scene(6, "lookups with a size of 15,000 digits and a negative one", "no 5xx, the router lives on")
async def poison_lookup() -> Played:
    """Numbers of absurd length to the lookup front."""
    async with ground() as here:
        assert here.side.run_dir is not None
        before = here.pid(" router --config")
        argv = "id=boom&size=" + "9" * 15_000
        statuses = [await _ask_lookup(here.side.run_dir, argv), await _ask_lookup(here.side.run_dir, "size=-1&id=\xff")]
        await asyncio.sleep(4)
        after = here.pid(" router --config")
        good = sum(answer.status_code == 200 for answer in await here.many(30))
    return (
        f"{', '.join(statuses)}; router {'the same' if before == after else 'restarted'}, {good} of 30 good",
        before == after and good == 30 and not any(status.startswith("5") for status in statuses),
    )


async def _ask_lookup(run_dir: Path, form: str) -> str:
    """Status of one form sent to the lookup front, wherever it listens."""
    listen = yaml.safe_load((run_dir / "router.yaml").read_text())["lookup"]
    transport = httpx.AsyncHTTPTransport(uds=listen["path"]) if listen.get("path") else None
    url = f"http://127.0.0.1:{listen.get('port') or 80}/lookup"
    headers = {"content-type": "application/x-www-form-urlencoded", "host": "pointsman"}
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        return str((await client.post(url, content=form.encode("latin-1"), headers=headers)).status_code)


@scene(7, "doors that take HAProxy at its word", "Unix sockets of mode 0600, no TCP port")
async def near_doors() -> Played:
    """Another user of this machine looks for doors to connect to."""
    async with ground() as here:
        assert here.side.run_dir is not None
        settings = yaml.safe_load((here.side.run_dir / "router.yaml").read_text())
        modes = {path.name: oct(path.stat().st_mode & 0o777) for path in here.side.run_dir.glob("*.sock")}
        folder = oct(here.side.run_dir.stat().st_mode & 0o777)
    open_ports = [name for name in ("spop", "ring", "lookup") if not settings[name].get("path")]
    return (
        f"{', '.join(f'{name} {mode}' for name, mode in sorted(modes.items()))}; folder {folder}; "
        f"TCP: {', '.join(open_ports) or 'none'}",
        not open_ports and set(modes.values()) == {"0o600"},
    )


@scene(11, "isolated tenants: another tenant's session id and prompt", "no home, no header that tells")
async def tenants() -> Played:
    """Another tenant asks with the first one's session id and prompt."""
    keys = {"alice": "key-of-alice", "bob": "key-of-bob"}
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        key_map = Path(folder) / "keys.map"
        key_map.write_text("".join(f"{sha256(key.encode()).hexdigest()} {name}\n" for name, key in keys.items()))
        async with ground(router={"isolate_tenants": True}, haproxy={"api_keys_map": str(key_map)}) as here:
            body = {"model": "sim", "max_tokens": 1, "messages": [{"role": "user", "content": "secret " * 3000}]}

            async def ask(name: str) -> httpx.Response:
                headers = {"authorization": f"Bearer {keys[name]}", "x-session-id": "shared"}
                return await here.client.post(PATH, json=body, headers=headers)

            await ask("alice")
            await asyncio.sleep(1)
            answer = await ask("bob")
            decided = (await here.admin.get("/metrics")).text
    homes = [line for line in decided.splitlines() if "pointsman_decisions_total" in line and "kv-home" in line]
    shown = [name for name in ("x-pointsman-reason", "x-pointsman-replica") if name in answer.headers]
    return (
        f"{answer.status_code}; kv-home decisions: {len(homes)}; headers: {', '.join(shown) or 'none'}",
        answer.status_code == 200 and not homes and not shown,
    )


@scene(
    12,
    "an edge of 256 descriptors: 30 streams, then 300 clients at once",
    "no 503, all replicas stay up; clients wait for a connection",
)
async def few_descriptors() -> Played:
    """An edge that may open 256 files, 60 streams and then 300 clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        async with ground(engine={"token_interval_ms": 20}) as here:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
            streams = [asyncio.create_task(_stream(here, 300)) for _ in range(30)]
            await asyncio.sleep(1)
            statuses = Counter(await asyncio.gather(*(_status(here) for _ in range(300))))
            states = list((await here.states()).values())
            whole = sum(await asyncio.gather(*streams))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        f"{statuses[200]} of 300 good, {statuses[503]} x 503, {statuses[0]} unanswered; streams whole {whole} of 30; "
        f"up {states.count('up')} of 4",
        statuses[503] == 0 and states.count("up") == 4 and whole == 30,
    )


SCENES = (
    idle_lies, lie_with_admission, five_reloads, web_page, poison_lookup, near_doors, corrupt_state, second_up,
    leaving_clients, tenants, few_descriptors,
)  # fmt: skip


async def run_survival(only: Sequence[str] = ()) -> tuple[list[Table], dict[str, Any]]:
    """All scenes, or those that are named, one after the other. Raises PeerError."""
    rows = []
    for play in SCENES:
        if not only or play.__name__ in only:
            say(f"survival: {(play.__doc__ or '').strip()}")
            rows.append(await play())
    table = Table(
        "What lies, outsiders and dying parts cost honest clients",
        ["what happens", "expected", "seen", "holds"],
        [[row.what, row.expected, row.seen, "yes" if row.holds else "NO"] for row in rows],
        ["each on an edge of its own, by `pointsman up` with four simulated replicas"],
    )
    return [table], {"rows": [asdict(row) for row in rows]}
