"""Writes docs/metrics.md, docs/settings.md and docs/dashboards.md from the code; tests hold the pages to it.

    PYTHONPATH=. .venv/bin/python tests/support/reference_docs.py

Names, types, labels, defaults and texts come from `router/metrics/requests.py`, the settings structs and the docstrings
below their fields. Only the paragraphs between the tables are written here.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from enum import EnumMeta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect as types

from deploy.grafana.source.boards import BOARDS, NOT_SHOWN
from deploy.grafana.source.model import Board
from pointsman.commands.haproxy import DEFAULTS
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.vllm.fleet.config import FleetConfig
from pointsman.haproxy.config import EdgeConfig
from pointsman.policies.decision import Reason
from pointsman.router.app import Router
from pointsman.router.counts.models import MAX_MODELS, MAX_TENANTS, OPERATIONS, OTHER
from pointsman.router.decide.rollout import ROLLOUT_ENDS
from pointsman.router.fleet.replica import Health
from pointsman.router.fronts.api.guard import Check
from pointsman.router.metrics.models import PARTS, PROVIDER
from pointsman.router.metrics.requests import REQUEST_CLASSES
from pointsman.router.outliers.answers import FAILURES
from pointsman.router.outliers.table import BACKPRESSURE, SLOW
from pointsman.router.process.tracing_settings import TracingSettings
from pointsman.router.requests.hold_queue import Outcome
from pointsman.router.settings import Settings, SharedSettings

DOCS = Path(__file__).parents[2] / "docs"
COMMAND = "PYTHONPATH=. .venv/bin/python tests/support/reference_docs.py"
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
    """The docstrings below the fields of a class and of its own bases, each on one line."""
    docs: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if base.__module__.startswith("pointsman."):
            docs |= own_attribute_docs(base)
    return docs


def own_attribute_docs(owner: type) -> dict[str, str]:
    """The docstrings below the fields that a class itself declares."""
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

`GET /metrics` of the admin address serves these without a token. A histogram has the series `_bucket`, `_sum` and
`_count`.

{metrics}

Values of the labels:

{labels}

`replica` is the id a replica registered under, `policy` the name of a policy, `status` an HTTP status. `model` is the
model, alias or LoRA adapter that a request names, else the model of the replica that served it; `tenant` is the name
beside the API key in `api_keys_map`, and empty without API keys. {models} models and {tenants} tenants are told apart;
further ones are counted as `{other}`. Session and request ids are never labels.

### OpenTelemetry

The families `gen_ai_server_*` have the names, labels and bounds of OpenTelemetry's
[conventions for generative AI](https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/), so that dashboards
made for these work unchanged. `gen_ai_provider_name` is `{provider}`, and `error_type` the HTTP status of an error.

### Reasons

A reason says why a replica was chosen, or none. It is the label `reason`, the response header `x-pointsman-reason`, and
the field `reason` of `POST /v1/explain`.

{reasons}

## HAProxy

`GET /metrics` of the `ops` address is HAProxy's own exporter. The frontend of clients is `proxy="edge"`, replicas are
the servers of `proxy="fleet"`, and the router is the server of `proxy="pm-router"`. HAProxy's counters restart at zero
after a reload.

## Engines

Each replica serves vLLM's metrics at its own address. Simulated replicas serve some of them under the same names.
Prometheus scrapes replicas directly and sets the replica id as label `replica`
(`deploy/prometheus/targets/replicas.yml`).
"""


def metrics_page() -> str:
    """docs/metrics.md."""
    return METRICS.format(
        generated=GENERATED,
        metrics=table(("name", "type", "labels", "help"), _metric_rows()),
        labels=table(("label", "values"), _label_values()),
        reasons=table(("reason", "meaning"), _reason_rows()),
        models=MAX_MODELS,
        tenants=MAX_TENANTS,
        other=OTHER,
        provider=PROVIDER,
    )


def _metric_rows() -> Iterator[tuple[str, str, str, str]]:
    # With the metrics of sharing and of tracing.
    tracing = TracingSettings(endpoint="http://127.0.0.1:1")
    router = Router(Settings(shared=SharedSettings(url="redis://127.0.0.1:1"), tracing=tracing))
    for family in sorted(router.metrics(), key=lambda family: family.name.removesuffix("_total")):
        yield code(family.name), family.kind, ", ".join(map(code, family.labels)), family.text


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
        ("`outcome` of `pointsman_spans_total`", ("sent", "lost")),
        ("`outcome` of `pointsman_access_log_lines_total`", ("written", "dropped")),
        ("`outcome` of `pointsman_rollouts_ended_total`", ROLLOUT_ENDS),
        ("`part` of `pointsman_time_to_first_token_part_seconds_total`", PARTS),
        ("`gen_ai_operation_name`", sorted({*OPERATIONS.values(), OTHER})),
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

Each process has one YAML file. A process refuses to start with an unknown key or a wrong value, and names the key, the
value and what is expected. Examples: `deploy/systemd/etc/`. The keys of policies are in [policies](policies.md).

## Router

`pointsman router --config router.yaml` starts the router; `--check-config` checks the file and exits, `--print-config`
shows the resulting settings and exits. Precedence, lowest first: defaults, the file, environment variables, flags. The
environment variable of a key is `POINTSMAN_` and the key in capitals, with two underscores between levels:
`POINTSMAN_ADMIN__TOKEN` is `admin.token`.

{router}

## HAProxy

`pointsman haproxy render --config haproxy.yaml --out FOLDER` writes haproxy.cfg and the files it refers to. Some values
must agree with `router.yaml`: the router's addresses, the admin socket, `server_options`, `isolate_tenants`, and
`policy_override` with the router's `override_header`. `pointsman up` keeps them equal by itself; the file of its
`--config` has the sections `router`, `haproxy` and `engine`.

{haproxy}

## vLLM fleet

`pointsman engine vllm --config fleet.yaml` keeps pools of vLLM replicas on a Ray cluster
([how to run a fleet](how-to-run-a-fleet.md)). Example: `deploy/fleet/fleet.yaml`.

{vllm}

## Simulated replica

`pointsman engine sim --config sim.yaml`, or `--set KEY=VALUE` for one key.

{sim}
"""


def settings_page() -> str:
    """docs/settings.md."""
    return SETTINGS.format(
        generated=GENERATED,
        router=_sections(Settings, {}),
        haproxy=_sections(EdgeConfig, DEFAULTS),
        vllm=_sections(FleetConfig, {}),
        sim=_sections(SimConfig, {}),
    )


def setting_meanings() -> Iterator[tuple[str, str]]:
    """Key and meaning of every row of docs/settings.md."""
    for line in settings_page().splitlines():
        cells = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))
        if line.startswith("| `"):
            yield cells[0], cells[-1]


def metric_meanings() -> Iterator[tuple[str, str]]:
    """Name and HELP of every metric, and every reason with its meaning."""
    yield from ((name, text) for name, _, _, text in _metric_rows())
    yield from _reason_rows()


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
        if default is msgspec.NODEFAULT:
            sections.append("Required.")
        elif not isinstance(field.type, types.StructType):
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
    """The values a key takes, in words."""
    if isinstance(kind, types.LiteralType):
        return ", ".join(map(code, kind.values))
    if isinstance(kind, types.StructType):
        return f"mapping of {', '.join(code(one.name) for one in kind.fields)}"
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


# Dashboards


DASHBOARDS = """\
# Reading the dashboards

{generated}

Each panel answers one question. The tables have the question, the panel that answers it, and what to do. The
description behind a panel's *i* says the same. Changes of the policy are marked on all dashboards.

The variables *Edge*, *Model*, *Tenant* and *Replica* narrow all panels that can tell them apart. A panel without data
waits for an event: nothing was held, nothing failed, no replica has a role. Numbers by replica are those of all edges
together.

Import `deploy/grafana/dashboards` into Grafana; the dashboards need the series of `deploy/prometheus`, recording rules
included. They are made from `deploy/grafana/source`: change a panel there and run
`.venv/bin/python -m deploy.grafana.source.build`. Without a Grafana,
`.venv/bin/python -m deploy.grafana.source.preview http://PROMETHEUS:9090` draws the same panels as pictures.

{boards}
## Not on a panel

{not_shown}
"""


def dashboards_page() -> str:
    """docs/dashboards.md."""
    return DASHBOARDS.format(
        generated=GENERATED,
        boards="\n".join(map(_board_section, BOARDS)),
        not_shown=table(("metric", "why"), ((code(name), why) for name, why in NOT_SHOWN.items())),
    )


def _board_section(board: Board) -> str:
    rows = [(panel.question, f"*{panel.title}*: {panel.shows}", panel.do) for panel in board.panels()]
    title = board.title.removeprefix("Pointsman: ").capitalize().replace("haproxy", "HAProxy").replace("Kv", "KV")
    return f"## {title}\n\n{board.text}\n\n{table(('question', 'panel', 'what to do'), rows)}\n"


PAGES = {"metrics.md": metrics_page, "settings.md": settings_page, "dashboards.md": dashboards_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
        print(DOCS / name)
