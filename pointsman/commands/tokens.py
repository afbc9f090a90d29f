"""`pointsman token create`: a new token of the admin API, shown once, and its line in a router's file.

The token itself goes to standard output alone, so that a script can take it from there; what people read goes to
standard error. A file keeps its comments: one line is added to its text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import yaml

from pointsman.contract.config import decode
from pointsman.contract.private_files import write_private
from pointsman.contract.tokens import TokenList, TokenRecord, TokenRole, hash_token, make_token
from pointsman.errors import StartError

ROLES = tuple(str(role) for role in TokenRole)

_ITEM = re.compile(r"^(?P<indent> *)- ", flags=re.M)


def create_token(name: str, roles: Sequence[str], *, days: int | None, now: datetime) -> tuple[str, TokenRecord]:
    """Make a token and its record. Raises ConfigurationError.

    days: how long the token is valid; None for ever. now: a time with its offset from UTC.
    """
    token = make_token()
    values: dict[str, Any] = {"name": name, "roles": list(dict.fromkeys(roles)), "sha256": hash_token(token)}
    if days is not None:
        values["expires"] = (now + timedelta(days=days)).replace(microsecond=0)
    return token, decode(values, TokenRecord, source="token")


def line_of(record: TokenRecord) -> str:
    """A record as one line of YAML, without the dash of its list."""
    shown = msgspec.to_builtins(record)
    if record.expires is None:
        del shown["expires"]
    else:
        shown["expires"] = record.expires.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return yaml.safe_dump(shown, default_flow_style=True, sort_keys=False, width=1000).strip()


def added(text: str, record: TokenRecord, source: str) -> str:
    """The text of a file with one token more. Raises ConfigurationError, StartError for a file that takes no line."""
    before = _tokens(text, source) if text.strip() else []
    if text.strip():
        items = _ITEM.findall(text)
        line = f"{items[-1] if items else '  '}- {line_of(record)}\n"
        new = text.rstrip("\n") + "\n" + line
        if not before:
            new = re.sub(r"^tokens:.*$", "tokens:", text.rstrip("\n"), flags=re.M) + "\n" + line
    else:
        new = f"tokens:\n  - {line_of(record)}\n"
    try:
        fits = _tokens(new, source) == [*before, record]
    except yaml.YAMLError:
        fits = False
    if not fits:
        raise StartError(f"{source}: the list is not written in lines; add this one yourself: {line_of(record)}")
    return new


def _tokens(text: str, source: str) -> list[TokenRecord]:
    return decode(yaml.safe_load(text), TokenList, source=source).tokens


def run_create(name: str, roles: Sequence[str], *, days: int | None, file: Path | None, as_json: bool) -> int:
    """Print a new token, and add its record to a file or print that too. Raises ConfigurationError, StartError."""
    token, record = create_token(name, roles, days=days, now=datetime.now(UTC))
    if file is not None:
        _add_to(file, record)
    if as_json:
        print(json.dumps({"token": token, "record": msgspec.to_builtins(record)}))
        return 0
    print(token)
    where = f"{record.name} is in {file}" if file else f"line for the list in admin.tokens_file:\n  - {line_of(record)}"
    print(f"{where}\nThe token is shown this once; routers keep its hash alone.", file=sys.stderr)
    return 0


def _add_to(file: Path, record: TokenRecord) -> None:
    try:
        text = file.read_text() if file.exists() else ""
        new = added(text, record, str(file))
        # In one step: a router may read at any moment. The file keeps who may read it.
        fresh = file.with_name(f"{file.name}~")
        write_private(fresh, new.encode(), sync=True)
        if file.exists():
            fresh.chmod(file.stat().st_mode & 0o777)
        fresh.replace(file)
    except OSError as error:
        raise StartError(f"--file: {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StartError(f"--file: {file}: not YAML: {error}") from error
