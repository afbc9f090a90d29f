"""What a replica's reporter makes of bytes, tokens and blocks. vLLM itself is played by a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pointsman.contract.events import EngineEvents, EngineLoad, EventsAnswer, Finished, FirstToken, RequestUsage
from pointsman.contract.prefix_keys import prefix_keys, salt_of, scope_of, scoped
from pointsman.engine.vllm.replica.gate import Message
from pointsman.engine.vllm.replica.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, PrefixCache
from pointsman.engine.vllm.replica.reporting import Reporter

BLOCK = 16
BODY = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "why " * 600}]})
KEYS = tuple(scoped(prefix_keys(BODY), scope_of("m")))
TOKENS = 640
"""Of BODY: 40 blocks; the last of its four keys ends in the 34th."""

CHAIN = list(range(9000, 9040))


class Kind(Enum):
    """vLLM's `RequestOutputKind`."""

    DELTA = 1
    FINAL_ONLY = 2


class Listener:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[EngineEvents] = []
        self.reads_usage = False

    async def send(self, message: EngineEvents) -> EventsAnswer:
        self.messages.append(message)
        return EventsAnswer(resync=False, interval_ms=0, usage_kept=len(self.usage) if self.reads_usage else -1)

    @property
    def usage(self) -> list[RequestUsage]:
        return [usage for message in self.messages for usage in message.usage]

    def on_hang_up(self, call: Callable[[], None]) -> None:
        """It never does."""

    async def close(self) -> None:
        pass

    @property
    def first(self) -> list[FirstToken]:
        return [first for message in self.messages for first in message.first]

    @property
    def finished(self) -> list[Finished]:
        return [finished for message in self.messages for finished in message.finished]

    @property
    def resident(self) -> set[int]:
        held: set[int] = set()
        for message in self.messages:
            held = ((set() if message.snapshot else held) | set(message.stored)) - set(message.evicted)
        return held


class Replica:
    """A reporter round an app that hands each body to the engine; `stored` and `removed` are the engine's events."""

    def __init__(self, *, kind: Kind = Kind.DELTA, prompts: int = 1) -> None:
        self.listener = Listener()
        self.reporter = Reporter([self.listener], model="m", load=lambda: EngineLoad(running=1))
        self.reporter.start(PrefixCache(BLOCK, 5000))
        self.tags: list[str | None] = []
        self.kind = kind
        self.prompts = prompts
        self.computed = asyncio.Event()
        self.closed = 0
        """Requests that ended in the engine, which a closed generator aborts."""
        self.adapter: Any = None
        self.salt: dict[str, str] = {}
        self.given: list[dict[str, Any]] = []
        """Prompts as the engine got them."""
        self.generate = self.reporter.watch(self._generate)
        self.app = self.reporter.app(self._app)

    async def _generate(
        self, prompt: Any, sampling: Any, request_id: str, *, lora_request: Any = None, session_id: str | None = None
    ) -> Any:
        self.tags.append(session_id)
        ids = prompt["prompt_token_ids"]
        try:
            if self.kind is Kind.DELTA:
                yield output(ids, cached=32)
            await self.computed.wait()
            yield output(ids, cached=32, tokens=1 if self.kind is Kind.DELTA else 2, finished=True)
        finally:
            self.closed += 1

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

        async def one(number: int) -> None:
            prompt = {"prompt_token_ids": range(TOKENS), **self.salt}
            self.given.append(prompt)
            outputs = self.generate(
                prompt, SimpleNamespace(output_kind=self.kind), f"cmpl-{number}", lora_request=self.adapter
            )
            async for _ in outputs:
                await send({"type": "http.response.body"})

        await asyncio.gather(*(one(number) for number in range(self.prompts)))

    async def ask(
        self, request_id: str, body: bytes = BODY, *, method: str = "POST", piece: int = 1000, scope: str = ""
    ) -> None:
        """One request over ASGI, its body in pieces."""
        messages: list[Message] = [
            {"type": "http.request", "body": body[at : at + piece], "more_body": at + piece < len(body)}
            for at in range(0, len(body), piece)
        ]
        left = iter(messages)

        async def receive() -> Message:
            return next(left)

        async def send(message: Message) -> None:
            pass

        headers = [(b"x-request-id", request_id.encode())]
        if scope:
            headers.append((b"x-pointsman-scope", scope.encode()))
        await self.app({"type": "http", "method": method, "path": "/v1", "headers": headers}, receive, send)

    def stored(self, first: int, after: int, tag: str | None, **given: Any) -> None:
        parent = CHAIN[first - 1] if first else None
        event = {"medium": "GPU", "group_idx": 0, "kv_cache_spec_kind": "full_attention", "session_id": tag, **given}
        self.reporter.apply([BlockStored(CHAIN[first:after], parent, BLOCK, **event)])

    async def until(self, *, first: int = 0, finished: int = 0, keys: int = -1) -> None:
        async with asyncio.timeout(5):
            while (
                len(self.listener.first) < first
                or len(self.listener.finished) < finished
                or (keys >= 0 and len(self.listener.resident) != keys)
            ):
                await asyncio.sleep(0)


def output(ids: Any, *, cached: int, tokens: int = 1, finished: bool = False) -> Any:
    return SimpleNamespace(
        prompt_token_ids=ids, num_cached_tokens=cached, finished=finished,
        outputs=[SimpleNamespace(index=0, token_ids=[0] * tokens, finish_reason="length" if finished else None)],
    )  # fmt: skip


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    made = Replica()
    yield made
    await made.reporter.stop()


async def test_a_streamed_request_is_told_of(replica: Replica) -> None:
    """First token with vLLM's own counts, end with the tokens streamed; keys come with their blocks."""
    asking = asyncio.create_task(replica.ask("r1"))
    await replica.until(first=1)
    assert len(KEYS) == 4
    replica.stored(0, 20, replica.tags[0])
    await replica.until(keys=2)
    replica.stored(20, 40, replica.tags[0])
    await replica.until(keys=4)
    assert replica.listener.resident == set(KEYS)
    replica.computed.set()
    await asking
    await replica.until(finished=1)
    (first,) = replica.listener.first
    assert (first.id, first.prompt_tokens, first.cached_tokens) == ("r1", TOKENS, 32)
    assert first.ttft_ms > 0
    (finished,) = replica.listener.finished
    assert finished == Finished("r1", TOKENS, 2, finished.decode_ms, "length")
    assert finished.decode_ms >= 0
    message = replica.listener.messages[0]
    assert message.snapshot and message.capacity_tokens == 5000 and message.load == EngineLoad(running=1)


async def test_the_first_token_of_a_whole_answer_is_told_in_time(replica: Replica) -> None:
    """vLLM gives such an answer at its end; the prompt's blocks tell before. What was hit is above them."""
    replica.kind = Kind.FINAL_ONLY
    replica.reporter.apply([BlockStored(CHAIN[:3], None, BLOCK)])
    asking = asyncio.create_task(replica.ask("r1"))
    while not replica.tags:
        await asyncio.sleep(0)
    replica.stored(3, 39, replica.tags[0])
    await asyncio.sleep(0)
    assert replica.listener.first == []
    replica.stored(39, 40, replica.tags[0])
    await replica.until(first=1)
    assert not asking.done()
    (first,) = replica.listener.first
    assert (first.prompt_tokens, first.cached_tokens) == (TOKENS, 3 * BLOCK)
    replica.computed.set()
    await asking
    await replica.until(finished=1)
    assert replica.listener.first == [first]
    (finished,) = replica.listener.finished
    assert finished == Finished("r1", TOKENS, 2, finished.decode_ms, "length")
    assert finished.decode_ms >= 0


async def test_an_answer_that_computed_no_block_is_told_of_at_its_end(replica: Replica) -> None:
    """All of its prompt was hit, or it was shorter than a block."""
    replica.kind = Kind.FINAL_ONLY
    replica.computed.set()
    await replica.ask("r1")
    await replica.until(first=1, finished=1)
    assert replica.listener.first[0].cached_tokens == 32
    assert replica.reporter._calls == {}


async def test_events_may_come_after_the_end(replica: Replica) -> None:
    """They take another way out of the engine than the answer."""
    replica.computed.set()
    await replica.ask("r1")
    replica.stored(0, 40, replica.tags[0])
    await replica.until(keys=4)


async def test_a_client_that_leaves_is_told_of_without_a_prompt(replica: Replica) -> None:
    """Its prompt counts for nothing; the one token it got says how fast the engine decodes. vLLM aborts it."""
    asking = asyncio.create_task(replica.ask("r1"))
    await replica.until(first=1)
    asking.cancel()
    await replica.until(finished=1)
    assert replica.closed == 1
    (finished,) = replica.listener.finished
    assert finished == Finished("r1", 0, 1, finished.decode_ms, "abort")


async def test_of_several_prompts_the_first_counts(replica: Replica) -> None:
    """One first token, one end; the others go to the engine as they are."""
    replica.prompts = 3
    replica.computed.set()
    await replica.ask("r1")
    await replica.until(finished=1)
    assert [tag is None for tag in replica.tags] == [False, True, True]
    assert len(replica.listener.first) == len(replica.listener.finished) == 1


async def test_requests_of_nobody_s_decision_still_store(replica: Replica) -> None:
    """A direct client, a health check: no ids to tell of, but its blocks are there. Reading is not looked at."""
    replica.computed.set()
    await replica.ask("")
    replica.stored(0, 40, replica.tags[0])
    await replica.until(keys=4)
    assert replica.listener.first == replica.listener.finished == []
    await replica.ask("", method="GET")
    assert replica.tags[-1] is None


async def test_only_whole_prefixes_on_the_device_count(replica: Replica) -> None:
    """Other tiers, groups with a window, further groups: none of them says what a prefix hit finds."""
    asking = asyncio.create_task(replica.ask("r1"))
    await replica.until(first=1)
    tag = replica.tags[0]
    replica.stored(0, 40, tag, medium="CPU")
    replica.stored(0, 40, tag, kv_cache_spec_kind="sliding_window", group_idx=0)
    assert replica.reporter.attribution.resident() == []
    replica.stored(0, 40, tag, group_idx=1)
    replica.stored(0, 40, tag, group_idx=2)
    assert len(replica.reporter.attribution.resident()) == 4
    replica.reporter.apply([BlockRemoved(CHAIN, "GPU", 2), BlockRemoved(CHAIN, "CPU", 1)])
    assert len(replica.reporter.attribution.resident()) == 4
    replica.reporter.apply([BlockRemoved(CHAIN[30:], "GPU", 1)])
    await replica.until(keys=3)
    replica.computed.set()
    await asking


async def test_clearing_and_loss_empty_it(replica: Replica) -> None:
    """By `/reset_prefix_cache`, told late; or since nobody knows any more what is there."""
    replica.computed.set()
    for number, empty in enumerate((lambda: replica.reporter.apply([AllBlocksCleared()]), replica.reporter._lost), 1):
        await replica.ask(f"r{number}")
        replica.stored(0, 40, replica.tags[-1])
        await replica.until(keys=4)
        empty()
        await replica.until(keys=0)


@pytest.mark.parametrize(
    ("adapter", "salt", "said", "expected"),
    [
        pytest.param("", "", "", scope_of("m"), id="the model"),
        pytest.param("sql", "", "", scope_of("sql"), id="an adapter, which requests name in its place"),
        pytest.param("", "pepper", "", scope_of("m", salt_of("pepper")), id="a cache salt"),
        pytest.param("", "pepper", "00000000000000ff", 255, id="what the router said goes first"),
        pytest.param("", "", "nonsense", scope_of("m"), id="nonsense is not listened to"),
    ],
)
async def test_keys_are_scoped_as_the_router_does(
    replica: Replica, adapter: str, salt: str, said: str, expected: int
) -> None:
    """So that what is resident below one model, adapter or salt is not taken for another's."""
    replica.adapter = SimpleNamespace(lora_name=adapter) if adapter else None
    replica.salt = {"cache_salt": salt} if salt else {}
    replica.computed.set()
    await replica.ask("r1", scope=said)
    replica.stored(0, 40, replica.tags[0])
    await replica.until(keys=4)
    assert replica.listener.resident == set(scoped(prefix_keys(BODY), expected))
    assert replica.given[0].get("cache_salt", "") == salt


async def test_a_tenant_s_kv_is_kept_apart(replica: Replica) -> None:
    """vLLM salts its blocks with the tenant, and with the request's own salt."""
    replica.computed.set()
    await replica.ask("r1", scope="00000000000000ff acme")
    replica.salt = {"cache_salt": "pepper"}
    await replica.ask("r2", scope="00000000000000ff acme")
    salts = [prompt["cache_salt"] for prompt in replica.given]
    assert len(set(salts)) == 2
    assert all(salt.startswith("acme ") for salt in salts)


async def test_usage_is_that_of_all_prompts() -> None:
    """With their output tokens, and the adapter; a prefill request has no output."""
    replica = Replica(prompts=2)
    replica.listener.reads_usage = True
    replica.adapter = SimpleNamespace(lora_name="sql")
    replica.computed.set()
    await replica.ask("r0")
    await replica.until(finished=1)
    await replica.ask("r1")
    await replica.until(finished=2)
    (usage,) = [usage for usage in replica.listener.usage if usage.id == "r1"]
    assert (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens) == (2 * TOKENS, 64, 4)
    assert usage.adapter == "sql" and usage.ms > 0
    await replica.reporter.stop()


async def test_a_whole_answer_that_is_aborted_counts_what_the_engine_computed(replica: Replica) -> None:
    """vLLM's app answers before it cancels: the report waits until the engine said what there was."""
    replica.listener.reads_usage = True
    replica.kind = Kind.FINAL_ONLY
    replica.computed.set()
    await replica.ask("r0")
    await replica.until(finished=1)
    replica.computed.clear()
    asking = asyncio.create_task(replica.ask("r1"))
    while len(replica.tags) < 2:
        await asyncio.sleep(0)
    replica.reporter.aborted("cmpl-0", 0, TOKENS, 32, 7)
    asking.cancel()
    await replica.until(finished=2)
    (usage,) = [usage for usage in replica.listener.usage if usage.id == "r1"]
    assert (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens) == (TOKENS, 32, 7)
