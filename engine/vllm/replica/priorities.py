"""Priority classes on a vLLM replica that schedules by priority (`--scheduling-policy=priority`).

`classed` notes the class that HAProxy names with a request, `ranked` gives the engine its number. A client may put its
own request behind others, by vLLM's field `priority` or header `x-vllm-priority`; what would put it before its class
has no effect. vLLM 0.32 takes these numbers without scheduling by priority, too, and passes over them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

from pointsman.contract.priority import PRIORITY_HEADER, engine_priority
from pointsman.engine.vllm.replica.gate import App, Receive, Scope, Send
from pointsman.engine.vllm.replica.signals import Generate

_HEADER = PRIORITY_HEADER.encode()

_class: ContextVar[str] = ContextVar("pointsman_class", default="")


def classed(app: App) -> App:
    """Return an ASGI application around vLLM's, whose requests `ranked` knows the classes of."""

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            _class.set(dict(scope["headers"]).get(_HEADER, b"").decode("latin-1"))
        await app(scope, receive, send)

    return noted


def ranked(generate: Generate) -> Generate:
    """Return `generate` of vLLM's `AsyncLLM` with the number of each request's class."""

    def numbered(*args: Any, **options: Any) -> AsyncIterator[Any]:
        options["priority"] = engine_priority(_class.get(), options.get("priority") or 0)
        return generate(*args, **options)

    return numbered
