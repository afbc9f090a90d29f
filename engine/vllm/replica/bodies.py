"""Bodies of requests that are held until they are whole, in front of vLLM's app."""

from __future__ import annotations

from collections.abc import Iterable

from pointsman.engine.vllm.replica.gate import Message, Receive, Send, answer_error

BODY_BYTES_MAX = 256 * 2**20
"""A body is held until it is judged, as vLLM holds it; a longer one is refused with 413."""

REFUSED = "BadRequestError"
"""Type of an error about a request, in vLLM's words."""


async def take_whole(receive: Receive, send: Send) -> tuple[list[Message], bytes] | None:
    """A request's messages up to the end of its body, and the body; None where it was too long and is refused."""
    messages: list[Message] = []
    body = bytearray()
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":  # the client left
            return messages, bytes(body)
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            await answer_error(send, 413, REFUSED, f"a body has at most {BODY_BYTES_MAX} bytes", None)
            return None
        if not message.get("more_body", False):
            return messages, bytes(body)


def replayed(messages: Iterable[Message], receive: Receive) -> Receive:
    """Return what an application receives: these messages, then whatever follows."""
    waiting = iter(messages)

    async def given() -> Message:
        message = next(waiting, None)
        return await receive() if message is None else message

    return given
