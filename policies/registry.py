"""From a policy document to a policy.

`POLICIES` is the table of what ships here; `installed_policies` adds what other packages offer
(`pointsman.policies.plugins`). A document is a mapping, or JSON, of the form

    {"policy": "session_affinity", "ttl_s": 900, "fallback": {"policy": "power_of_two", "by": "tokens"}}

decoded strictly: whatever is not understood is refused and named, so a typing error never becomes a default. Beside
these keys, the document of a router may have `models`: policy documents by model (`build_policy_set`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pointsman.contract.config import decode, join
from pointsman.policies.admission import Admission
from pointsman.policies.builtin.consistent_hash import ConsistentHash
from pointsman.policies.builtin.kv_cost import KVCost
from pointsman.policies.builtin.least_load import LeastLoad
from pointsman.policies.builtin.lora_affinity import LoraAffinity
from pointsman.policies.builtin.power_of_two import PowerOfTwo
from pointsman.policies.builtin.prefix_affinity import PrefixAffinity
from pointsman.policies.builtin.random_choice import RandomChoice
from pointsman.policies.builtin.round_robin import RoundRobin
from pointsman.policies.builtin.session_affinity import SessionAffinity
from pointsman.policies.builtin.weighted import Weighted
from pointsman.policies.errors import PolicyConfigError
from pointsman.policies.plugins import KEY_POLICY, Plugin, Reloaded, load_plugins, reload_plugins
from pointsman.policies.policy import PlainPolicy, Policy
from pointsman.policies.policy_set import KEY_MODELS, MAX_MODELS, MODEL_NAME_MAX, PolicySet

PolicyTable = Mapping[str, type[Policy]]

POLICIES: dict[str, type[Policy]] = {
    RoundRobin.name: RoundRobin,
    RandomChoice.name: RandomChoice,
    LeastLoad.name: LeastLoad,
    PowerOfTwo.name: PowerOfTwo,
    ConsistentHash.name: ConsistentHash,
    SessionAffinity.name: SessionAffinity,
    KVCost.name: KVCost,
    PrefixAffinity.name: PrefixAffinity,
    LoraAffinity.name: LoraAffinity,
    Weighted.name: Weighted,
}

MAX_DEPTH = 8
"""Policies in one chain of fallbacks, the first included. Each is one idea, and nobody can reason about nine."""

KEY_FALLBACK = "fallback"

KEY_ADMISSION = "admission"
"""Key of a document that says when requests wait at the edge; a policy may have a field of that name."""


def build_policy(document: Mapping[str, Any] | bytes, table: PolicyTable | None = None) -> Policy:
    """The policy a document (JSON if bytes) describes, its fallbacks built and nested.

    `table` is what may be named in it, by default all installed policies. Raises PolicyConfigError, which names the bad
    key, its value and what was expected, and PolicyPluginError where an installed package is at fault.
    """
    known = installed_policies() if table is None else table
    return _build(_parse(document) if isinstance(document, bytes) else document, known, path="", depth=1)


def build_policy_set(document: Mapping[str, Any] | bytes, table: PolicyTable | None = None) -> PolicySet:
    """The policies of a document that may have policies by model; arguments and errors as those of `build_policy`."""
    known = installed_policies() if table is None else table
    values = _parse(document) if isinstance(document, bytes) else document
    if not isinstance(values, Mapping) or KEY_MODELS not in values:
        return PolicySet(_build(values, known, path="", depth=1, beside=(KEY_MODELS,)))
    documents = values[KEY_MODELS]
    if not isinstance(documents, Mapping):
        raise PolicyConfigError(KEY_MODELS, documents, "policy documents by model, an object")
    if len(documents) > MAX_MODELS:
        raise PolicyConfigError(KEY_MODELS, len(documents), f"at most {MAX_MODELS} models")
    for name in documents:
        if not (isinstance(name, str) and 1 <= len(name) <= MODEL_NAME_MAX):
            raise PolicyConfigError(KEY_MODELS, name, f"names of models, of 1 to {MODEL_NAME_MAX} characters")
    rest = {key: value for key, value in values.items() if key != KEY_MODELS}
    main = _build(rest, known, path="", depth=1, beside=(KEY_MODELS,))
    paths = {name: join(KEY_MODELS, name) for name in documents}
    return PolicySet(main, {name: _build(documents[name], known, path=paths[name], depth=1) for name in documents})


def _parse(document: bytes) -> object:
    try:
        return msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PolicyConfigError("", document, "a JSON object", problem=str(error)) from error
    except RecursionError as error:
        raise PolicyConfigError("", document, f"at most {MAX_DEPTH} nested policies") from error


def _build(document: object, table: PolicyTable, *, path: str, depth: int, beside: tuple[str, ...] = ()) -> Policy:
    """Build one policy and its fallbacks.

    path: of the document in the whole one. beside: keys that may stand beside those of the policy.
    """
    if depth > MAX_DEPTH:
        raise PolicyConfigError(path, document, f"at most {MAX_DEPTH} nested policies")
    if not isinstance(document, Mapping):
        raise PolicyConfigError(path, document, 'an object such as {"policy": "least_load"}')
    values = dict(document)
    names = f"one of {', '.join(sorted(table))}"
    if KEY_POLICY not in values:
        raise PolicyConfigError(join(path, KEY_POLICY), None, names, problem="missing")
    name = values.pop(KEY_POLICY)
    if not isinstance(name, str) or name not in table:
        raise PolicyConfigError(join(path, KEY_POLICY), name, names)
    construct: Callable[..., Policy] = table[name]
    known = (KEY_POLICY, *beside)
    admission: Admission | None = None
    if depth == 1 and _takes_admission(table[name]):
        known += (KEY_ADMISSION,)
        given = values.pop(KEY_ADMISSION, None)
        if given is not None:
            admission = decode(given, Admission, at=join(path, KEY_ADMISSION), error=PolicyConfigError)
    config = decode(values, table[name].Config, at=path, error=PolicyConfigError, known=known)
    if KEY_FALLBACK in config.__struct_fields__:
        below = getattr(config, KEY_FALLBACK)
        policy = construct(config, _build(below, table, path=join(path, KEY_FALLBACK), depth=depth + 1))
    else:
        policy = construct(config)
    if admission is not None:
        assert isinstance(policy, PlainPolicy)
        policy.admission = admission
    return policy


def _takes_admission(policy: type[Policy]) -> bool:
    """Whether the document of a policy may have `admission` beside what the policy itself knows."""
    return issubclass(policy, PlainPolicy) and KEY_ADMISSION not in policy.Config.__struct_fields__


def describe(table: PolicyTable | None = None) -> dict[str, dict[str, Any]]:
    """Describe policies for people and forms: by name, a `summary` and the JSON `schema` of the configuration."""
    known = installed_policies() if table is None else table
    return {
        name: {
            "summary": _summary(policy),
            "schema": msgspec.json.schema(policy.Config),
        }
        for name, policy in sorted(known.items())
    }


def document_schema(name: str, table: PolicyTable | None = None) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a router's policy document that begins with a policy.

    Raises KeyError for a name that is unknown. Documents below it (`fallback`, `models`) have schemas of their own.
    """
    known = installed_policies() if table is None else table
    schema = msgspec.json.schema(known[name].Config)
    types = schema.pop("$defs")
    config = types.pop(schema["$ref"].rpartition("/")[2])
    below = {"type": "object", "required": [KEY_POLICY], "properties": {KEY_POLICY: {"enum": sorted(known)}}}
    properties = {KEY_POLICY: {"const": name}, **config.get("properties", {})}
    if KEY_FALLBACK in properties:
        properties[KEY_FALLBACK] = {**properties[KEY_FALLBACK], **below}
    if _takes_admission(known[name]):
        admission = msgspec.json.schema(Admission)
        types |= admission["$defs"]
        properties[KEY_ADMISSION] = {
            "anyOf": [{"type": "null"}, {"$ref": admission["$ref"]}],
            "default": None,
            "description": "When requests wait at the edge; null: only batch requests do.",
        }
    properties[KEY_MODELS] = {
        "type": "object",
        "maxProperties": MAX_MODELS,
        "propertyNames": {"minLength": 1, "maxLength": MODEL_NAME_MAX},
        "additionalProperties": below,
        "description": "Policy documents by model.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        "description": _summary(known[name]),
        "type": "object",
        "properties": properties,
        "required": [KEY_POLICY, *config.get("required", [])],
        "additionalProperties": False,
    } | ({"$defs": types} if types else {})


def _summary(policy: type[Policy]) -> str:
    return inspect.cleandoc(policy.__doc__ or "").partition("\n")[0]


class _Installed:
    """The policies of this process; one value that is swapped whole."""

    def __init__(self) -> None:
        self.plugins = load_plugins(POLICIES)
        self.table: PolicyTable = _table(self.plugins)


@functools.cache
def _installed() -> _Installed:
    return _Installed()


def installed_policies() -> PolicyTable:
    """`load_policies`, once a process, and what `reload_policies` found since: a scan takes milliseconds."""
    return _installed().table


def load_policies() -> PolicyTable:
    """`POLICIES` and the policies of installed packages.

    Raises PolicyPluginError for an entry point that takes a name already taken, fails to import or is no policy.
    """
    return _table(load_plugins(POLICIES))


def reload_policies() -> list[Reloaded]:
    """Look at what is installed, and make new policies of packages known; a line for each policy of a package.

    Takes milliseconds, and as long as new packages take to import.
    """
    installed = _installed()
    plugins, lines = reload_plugins(POLICIES, installed.plugins)
    installed.plugins, installed.table = plugins, _table(plugins)
    return lines


def _table(plugins: Mapping[str, Plugin]) -> PolicyTable:
    return POLICIES | {name: plugin.policy for name, plugin in plugins.items()}
