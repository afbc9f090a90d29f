"""The log of a simulated replica has what it computed for each request."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from sim_replica import chat_body, client_of, replica


async def test_prompts_tokens_and_ends_are_logged(tmp_path: Path) -> None:
    """By attempt, with the client's name for it; of two answers each has its prompt and its tokens."""
    log = tmp_path / "requests.log"
    async with replica(request_log=str(log)) as server, client_of(server) as client:
        body = chat_body("hello " * 20, max_tokens=5, n=2, ignore_eos=True)
        answer = await client.post(
            "/v1/chat/completions", json=body, headers={"x-request-id": "r1", "x-request-tag": "t"}
        )
        usage = answer.json()["usage"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    begins, prompts, ends = ([line for line in lines if line[0] == kind] for kind in ("begin", "prompt", "end"))
    tokens: Counter[str] = Counter()
    for line in lines:
        if line[0] == "tokens":
            tokens.update(line[1])
    ((_, attempt, *named),) = begins
    assert attempt.startswith(f"{os.getpid()}.") and named == ["r1", "t"]
    assert [line[1:5] for line in prompts] == [[attempt, "r1", 0, usage["prompt_tokens"]]] * 2
    assert tokens == {attempt: usage["completion_tokens"]} == {attempt: 10}
    assert [line[1:3] for line in ends] == [[attempt, "r1"]]
