"""`pointsman policy ...`: the live policy, its revisions, and how one becomes another."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import tzinfo
from typing import Any

import yaml
from rich.console import Group, RenderableType

from pointsman.admin_client import Answer
from pointsman.commands.inquiry import Inquiry, print_raw, table_of
from pointsman.commands.shown import ABSENT, day_and_time, fitted
from pointsman.documents import policy_document

NAME_WIDTH = 20


def document_of(given: str) -> dict[str, Any]:
    """The policy document of an argument: a name, a file, or an inline document. Raises ConfigurationError."""
    document = policy_document(given, "POLICY")
    assert document is not None
    return document


def run_get(inquiry: Inquiry, revision: int | None) -> int:
    """Print the live policy, or an earlier revision, as YAML that `policy set` takes."""
    if revision is None:
        answer = inquiry.client.get("/v1/policy")
        document, head = answer.json(), _version(answer)
    else:
        answer = inquiry.client.get(f"/v1/policy/revisions/{revision}")
        view = answer.json()
        document, head = view["document"], f"revision {revision}, {_whose(view, None)}"
    if inquiry.as_json:
        print_raw(answer.body)
    else:
        print(f"# {head}\n{as_yaml(document)}", end="")
    return 0


def as_yaml(document: Mapping[str, Any]) -> str:
    """A document as the text of a file."""
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)


def _version(answer: Answer) -> str:
    revision = f"revision {answer.revision}, " if answer.revision else ""
    return f"{revision}ETag {answer.etag}"


def _whose(view: Mapping[str, Any], zone: tzinfo | None) -> str:
    why = f": {view['why']}" if view["why"] else ""
    return f"{day_and_time(view['at'], zone)} by {view['author']}{why}"


def run_set(inquiry: Inquiry, given: str, *, why: str, if_match: str, dry_run: bool) -> int:
    """Put a policy live, and print what differs from the one before. dry_run: only check the document."""
    document = document_of(given)
    before = {} if inquiry.as_json else inquiry.client.get("/v1/policy").json()
    answer = inquiry.client.call(
        "PUT",
        "/v1/policy",
        query={"why": why, "dry_run": dry_run},
        body=document,
        if_match=if_match,
    )
    _say_applied(inquiry, answer, before, "the document is valid; live would change:" if dry_run else "")
    return 0


def run_rollback(inquiry: Inquiry, revision: int | None, *, why: str, if_match: str) -> int:
    """Put an earlier revision live again. revision: None for the one that was live before."""
    before = {} if inquiry.as_json else inquiry.client.get("/v1/policy").json()
    body = {"why": why} | ({"revision": revision} if revision is not None else {})
    answer = inquiry.client.call("POST", "/v1/policy/rollback", body=body, if_match=if_match)
    _say_applied(inquiry, answer, before, "")
    return 0


def _say_applied(inquiry: Inquiry, answer: Answer, before: Mapping[str, Any], head: str) -> None:
    """Print the policy that a change made, and its warnings."""
    if inquiry.as_json:
        print_raw(answer.body)
        return
    applied = dict(answer.json())
    warnings = applied.pop("warnings", [])
    revision = f" r{answer.revision}" if answer.revision else ""
    print(head or f"policy {applied['policy']}{revision} is live; changed:")
    inquiry.console.print(changes_shown(_changes(before, applied)))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Values that a change made different; of another policy only its own, since none of the old ones is left."""
    found = differences(before, after)
    if before.get("policy") == after.get("policy"):
        return found
    return [change for change in found if "to" in change]


def differences(before: Mapping[str, Any], after: Mapping[str, Any], at: str = "") -> list[dict[str, Any]]:
    """Values that differ between two documents, as `GET /v1/policy/diff` lists them."""
    found: list[dict[str, Any]] = []
    for key in dict.fromkeys([*before, *after]):
        path = f"{at}.{key}" if at else key
        one, other = before.get(key), after.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, path)
        elif one != other or (key in before) != (key in after):
            sides = {"from": one} if key in before else {}
            found.append({"key": path} | sides | ({"to": other} if key in after else {}))
    return found


def changes_shown(changes: list[dict[str, Any]]) -> RenderableType:
    """A row for each value that differs."""
    if not changes:
        return "  nothing"
    rows = [(f"  {change['key']}", _value(change, "from"), _value(change, "to")) for change in changes]
    return table_of(("  key", "from", "to"), rows, flexible="to")


def _value(change: Mapping[str, Any], side: str) -> str:
    if side not in change:
        return ABSENT
    value = change[side]
    return value if isinstance(value, str) else json.dumps(value)


def run_diff(inquiry: Inquiry, earlier: int | None, later: int | None) -> int:
    """Print what differs between two revisions. earlier: None for the one before `later`; later: None for the live."""
    answer = inquiry.client.get("/v1/policy/diff", **{"from": earlier, "to": later})
    inquiry.show(
        answer,
        lambda view: Group(f"from revision {view['from']} to {view['to']}:", changes_shown(view["changes"])),
    )
    return 0


def run_history(inquiry: Inquiry, limit: int) -> int:
    """Print the latest revisions, the newest first."""
    answer = inquiry.client.get("/v1/policy/revisions", limit=limit)
    inquiry.show(answer, lambda body: history_shown(body["revisions"], None))
    return 0


def history_shown(revisions: list[dict[str, Any]], zone: tzinfo | None) -> RenderableType:
    """A row for each revision."""
    rows = [
        (
            f"r{view['revision']}" + (" *" if view["active"] else ""),
            day_and_time(view["at"], zone)[:19],
            fitted(view["author"], NAME_WIDTH),
            fitted(view["document"].get("policy"), NAME_WIDTH),
            ": ".join(filter(None, ("tried by a rollout" if view.get("tried") else "", view["why"]))),
        )
        for view in revisions
    ]
    return table_of(("revision", "at", "by", "policy", "why"), rows, flexible="why")
