"""`pointsman explain`: where a request would go, and why; or why a past one went where it did."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import tzinfo
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pointsman.commands.candidate_table import why_shown
from pointsman.commands.decisions import decision_shown
from pointsman.commands.inquiry import Inquiry, flowed_text, notes
from pointsman.commands.shown import ABSENT, ms, whole
from pointsman.errors import StartError

STDIN = "-"

PATHS = {
    "messages": "/v1/chat/completions",
    "prompt": "/v1/completions",
    "input": "/v1/responses",
}
"""Path of a body by the key that its prompt has, where `--path` names none."""

SESSION_HEADER = "x-session-id"
"""Header in which an edge finds the session, unless `session_headers` of its HAProxy names others."""


def question(
    *, body: Path | None, raw: bool, path: str, headers: list[str], request: str, session: str, model: str
) -> dict[str, Any]:
    """The body of `POST /v1/explain` for what the command line gives. Raises StartError.

    raw: whether the bytes of the file count, and not what its JSON says.
    """
    ways = [name for name, given in (("-f", body), ("--request", request)) if given]
    if len(ways) > 1:
        raise StartError("-f and --request: one of them is expected, not both")
    if request:
        return {"request": request}
    if body is None:
        if not (session or model):
            raise StartError("explain: a request is expected: -f BODY.json, --request ID, or --session S --model M")
        return {name: value for name, value in (("path", path), ("session", session), ("model", model)) if value}
    text = _read(body)
    document = _decoded(body, text)
    if model and raw:
        raise StartError("--model: goes with --raw only in the body itself")
    if model:
        document = document | {"model": model}
    known = dict(_header(text) for text in headers)
    if session:
        known[SESSION_HEADER] = session
    key = next((key for key in PATHS if key in document), "messages")
    return {"path": path or PATHS[key], "headers": known, "body": text if raw else document}


def _read(body: Path) -> str:
    """The text of a file, or of standard input. Raises StartError."""
    try:
        return sys.stdin.read() if str(body) == STDIN else body.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"-f: {body}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _decoded(body: Path, text: str) -> dict[str, Any]:
    """The request in a text. Raises StartError."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise StartError(f"-f: {body}: no JSON: {error}") from None
    if not isinstance(document, dict):
        raise StartError(f"-f: {body}: a JSON object is expected, as a client sends it")
    return document


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise StartError(f"--header: {text}: NAME: VALUE is expected")
    return name.strip().lower(), value.strip()


def run_explain(inquiry: Inquiry, asked: Mapping[str, Any]) -> int:
    """Print the decision that a request would get, and for a past one also the one it got.

    asked: body of the operation.
    """
    answer = inquiry.client.call("POST", "/v1/explain", body=asked)
    inquiry.show(answer, lambda view: answer_shown(view, None, width=inquiry.console.width))
    return 0


def answer_shown(view: Mapping[str, Any], zone: tzinfo | None, *, width: int) -> RenderableType:
    """The decision at this moment, behind that of a past request."""
    if not view.get("then"):
        return explanation_shown(view, width=width)
    past = decision_shown(view["then"], zone, width=width)
    return Group(past, "", Text("asked again at this moment:", style="dim"), explanation_shown(view, width=width))


def explanation_shown(view: Mapping[str, Any], *, width: int) -> RenderableType:
    """The decision, its candidates with the terms of their scores, and what would change it."""
    decision, features = view["decision"], view.get("features") or {}
    first = decision.get("first") or ""
    resident = view.get("resident_tokens")
    policy = (view.get("policy") or {}).get("policy", "")
    if first:
        chosen = f"-> {first}  {decision['reason']}"
    else:
        wait = f", held for {ms(decision['hold_ms'])} at most" if decision.get("hold_ms") else ""
        chosen = f"-> nobody: {decision['status'] or ABSENT} {decision['reason']}{wait}"
    head = [
        features.get("path", ""),
        f"model {features['model']}" if features.get("model") else "",
        f"session {features['session']}" if features.get("session") else "",
        f"tenant {features['tenant']}" if features.get("tenant") else "",
        f"{whole(view['prompt_tokens'])} tokens" if view.get("prompt_tokens") else "",
        f"{whole(resident)} of them cached there" if resident else "",
        f"policy {policy}" if policy else "",
        chosen,
        f"prefill by {decision['prefill']}" if decision.get("prefill") else "",
    ]
    why = why_shown(view["candidates"], first, excluded=view.get("excluded"), would_change=view.get("would_change"))
    remarks = list(view.get("warnings") or ())
    if view.get("assumed"):
        remarks.append(f"HAProxy's configuration does not state {', '.join(view['assumed'])}: defaults were taken.")
    return Group(flowed_text(head, width, strong=chosen), "", why, *notes(remarks, mark="note:"))
