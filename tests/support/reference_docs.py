"""Writes docs/metrics.md and docs/settings.md from the code; tests hold the pages to it.

    .venv/bin/python tests/support/reference_docs.py

Names, types, labels, defaults and texts come from `router/metrics/requests.py`, the settings structs and the docstrings
below their fields. Only the paragraphs between the tables are written here.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from enum import EnumMeta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect as types

from pointsman.commands.haproxy import DEFAULTS
from pointsman.haproxy.config import EdgeConfig
from pointsman.policies.decision import Reason
from pointsman.router.app import Router
from pointsman.router.decide.hold import Outcome
from pointsman.router.fleet.replicas import Health
from pointsman.router.fronts.api.guard import Check
from pointsman.router.metrics.requests import REQUEST_CLASSES
from pointsman.router.outliers.answers import FAILURES
from pointsman.router.outliers.table import BACKPRESSURE, SLOW
from pointsman.router.settings import Settings, SharedSettings

DOCS = Path(__file__).parents[2] / "docs"
COMMAND = ".venv/bin/python tests/support/reference_docs.py"
WIDTH = 118
GENERATED = f"<!-- Generated from the code by `{COMMAND}`; change the docstring or help text there. -->"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def code(text: str) -> str:
    return f"`{text}`"


def attribute_docs(owner: type) -> dict[str, str]:
    """The docstrings below the fields of a class, each on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        target = field.target if isinstance(field, ast.AnnAssign) else None
        if isinstance(field, ast.Assign):
            target = field.targets[0]
        if isinstance(target, ast.Name) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs[target.id] = " ".join(str(below.value.value).split())
    return docs


def class_doc(owner: type) -> str:
    """The docstring of a class, on one line."""
    return " ".join((inspect.getdoc(owner) or "").split())


# Metrics


METRICS = """\
# Metrics

{generated}

## Router

`GET /metrics` of the admin address, without a token. A histogram has the series `_bucket`, `_sum` and `_count`.

{metrics}

Values of the labels:

{labels}

`replica` is the id a replica registered under, `policy` the name of a policy, `status` an HTTP status. Session and
request ids are never labels.

### Reasons

The same word is the response header `x-pointsman-reason`.

{reasons}

## HAProxy

`GET /metrics` of the `ops` address: HAProxy's own exporter. Clients come in through `proxy="edge"`, replicas are the
servers of `proxy="fleet"`, the router is the server of `proxy="pm-router"`. HAProxy counts from zero after a reload.

## Engines

Each replica serves vLLM's metrics at its own address, never through the edge; simulated replicas serve a part of them
under the same names. Prometheus scrapes replicas directly, with the id as label `replica`
(`deploy/prometheus/targets/replicas.yml`).
"""


def metrics_page() -> str:
    """docs/metrics.md."""
    return METRICS.format(
        generated=GENERATED,
        metrics=table(("name", "type", "labels", "help"), _metric_rows()),
        labels=table(("label", "values"), _label_values()),
        reasons=table(("reason", "meaning"), _reason_rows()),
    )


def _metric_rows() -> Iterator[tuple[str, str, str, str]]:
    router = Router(Settings(shared=SharedSettings(url="redis://127.0.0.1:1")))  # so that what is shared is measured
    for family in sorted(router.metrics.collect(), key=lambda family: family.name):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield code(name), family.type, ", ".join(map(code, family._labelnames)), family.documentation


def _label_values() -> Iterator[tuple[str, str]]:
    causes = sorted(FAILURES)
    for label, values in (
        ("`class`", REQUEST_CLASSES),
        ("`state`", (*Health, "draining", "ejected")),
        ("`cause` of `pointsman_reservations_dropped_total`", ("expired", "leaked")),
        ("`cause` of replicas and ejections", causes),
        ("`cause` of `pointsman_replica_demoted_share`", (BACKPRESSURE, SLOW, *causes)),
        ("`result`", ("applied", "refused")),
        ("`check`", Check),
        ("`outcome` of `pointsman_holds_total`", Outcome),
    ):
        yield label, ", ".join(map(code, values))


def _reason_rows() -> Iterator[tuple[str, str]]:
    assert isinstance(Reason, EnumMeta)
    docs = attribute_docs(Reason)
    for reason in Reason:
        yield code(reason), docs.get(reason.name, "")


# Settings


WORDS: Mapping[type[types.Type], str] = {
    types.StrType: "text",
    types.BoolType: "`true`, `false`",
    types.NoneType: "none",
    types.DictType: "mapping",
}
"""Kinds of values that need no more than a word."""


class Setting(NamedTuple):
    """One key of a file."""

    key: str
    kind: str
    default: str
    meaning: str


SETTINGS = """\
# Settings

{generated}

Two files, one for each process of an edge. A wrong key or value is refused at start, with the key, the value and what
is expected. Examples: `deploy/systemd/etc/`.

## Router

`pointsman router --config router.yaml`; `--check-config` checks and exits, `--print-config` shows what is understood.
Lowest first: defaults, the file, environment variables, flags. An environment variable is the key in capitals behind
`POINTSMAN_`, with two underscores between levels: `POINTSMAN_ADMIN__TOKEN`.

{router}

## HAProxy

`pointsman haproxy render --config haproxy.yaml --out FOLDER` writes haproxy.cfg and the files it refers to. What both
files say must agree: the router's addresses, the admin socket, `server_options`, `isolate_tenants`, and
`policy_override` with the router's `override_header`. `pointsman up` sees to that by itself; its `--config` takes both
files as sections `router` and `haproxy`.

{haproxy}
"""


def settings_page() -> str:
    """docs/settings.md."""
    return SETTINGS.format(generated=GENERATED, router=_sections(Settings, {}), haproxy=_sections(EdgeConfig, DEFAULTS))


def _sections(owner: type, defaults: Mapping[str, Any]) -> str:
    """A table of the plain keys, then one for each key that holds others."""
    plain, sections = [], []
    docs = attribute_docs(owner)
    for field in types.type_info(owner).fields:  # type: ignore[attr-defined]
        inner = _struct(field.type)
        if inner is None:
            plain.append(_setting(field, docs, defaults))
            continue
        default = _default(field, defaults)
        is_list = isinstance(field.type, types.ListType | types.VarTupleType)
        prefix = f"{field.name}[]." if is_list else f"{field.name}."
        meaning = docs.get(field.name, class_doc(inner))
        sections += [f"### `{field.name}`", "\n".join(textwrap.wrap(meaning, WIDTH))]
        if not isinstance(field.type, types.StructType):
            sections.append(f"Default: {_shown(default)}.")
        inner_defaults = default if isinstance(default, Mapping) else {}
        inner_docs = attribute_docs(inner)
        sections.append(
            _table(
                _setting(one, inner_docs, inner_defaults)._replace(key=prefix + one.name)
                for one in types.type_info(inner).fields  # type: ignore[attr-defined]
            )
        )
    return "\n\n".join([_table(plain), *sections])


def _table(settings: Iterable[Setting]) -> str:
    rows = [(code(one.key), one.kind, one.default, one.meaning) for one in settings]
    return table(("key", "value", "default", "meaning"), rows)


def _setting(field: types.Field, docs: Mapping[str, str], defaults: Mapping[str, Any]) -> Setting:
    if isinstance(field.type, types.Metadata):
        described = (field.type.extra_json_schema or {}).get("description", "")
        return Setting(field.name, _kind(field.type.type), _shown(_default(field, defaults)), described)
    if isinstance(field.type, types.StructType):
        return Setting(field.name, f"the keys of [`{field.name}`](#{field.name})", "theirs", docs.get(field.name, ""))
    return Setting(field.name, _kind(field.type), _shown(_default(field, defaults)), docs.get(field.name, ""))


def _default(field: types.Field, defaults: Mapping[str, Any]) -> Any:
    if field.name in defaults:
        return defaults[field.name]
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    if field.default is msgspec.NODEFAULT:
        return field.default
    return msgspec.to_builtins(field.default)


def _shown(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return code(json.dumps(value))


def _struct(kind: types.Type) -> type | None:
    """The struct a value is, or is a list of; None for a plain value."""
    if isinstance(kind, types.ListType | types.VarTupleType):
        return _struct(kind.item_type)
    if isinstance(kind, types.UnionType):
        return next(filter(None, map(_struct, kind.types)), None)
    return kind.cls if isinstance(kind, types.StructType) else None


def _kind(kind: types.Type) -> str:
    """What may be written for a value, in words."""
    if isinstance(kind, types.LiteralType):
        return ", ".join(map(code, kind.values))
    if isinstance(kind, types.EnumType):
        return ", ".join(code(one.value) for one in kind.cls)
    if isinstance(kind, types.UnionType):
        return " or ".join(_kind(one) for one in kind.types)
    if isinstance(kind, types.ListType | types.VarTupleType):
        return f"list of {_kind(kind.item_type)}"
    if isinstance(kind, types.IntType | types.FloatType):
        word = "whole number" if isinstance(kind, types.IntType) else "number"
        if kind.ge is not None and kind.le is not None:
            return f"{word} from {_plain(kind.ge)} to {_plain(kind.le)}"
        limits = (("above", kind.gt), ("from", kind.ge), ("below", kind.lt), ("up to", kind.le))
        return " ".join([word, *(f"{sign} {_plain(limit)}" for sign, limit in limits if limit is not None)])
    return WORDS[type(kind)]


def _plain(limit: float) -> str:
    """A limit without `.0`: `typing` takes 1 and 1.0 for the same annotation, and keeps whichever came first."""
    return str(int(limit)) if limit == int(limit) else str(limit)


PAGES = {"metrics.md": metrics_page, "settings.md": settings_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
        print(DOCS / name)
