"""From documents to policies: strictness, nesting, plugins."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from candidates import make_candidates, make_context, make_features, names
from jsonschema import Draft202012Validator

from pointsman.policies.errors import PolicyConfigError, PolicyPluginError
from pointsman.policies.registry import (
    MAX_DEPTH,
    POLICIES,
    build_policy,
    build_policy_set,
    describe,
    document_schema,
    load_policies,
)

NAMES = (
    "consistent_hash, kv_cost, least_load, lora_affinity, power_of_two, prefix_affinity, random, round_robin, "
    "session_affinity, weighted"
)


def nested(depth: int) -> dict[str, Any]:
    """A chain of so many policies."""
    document: dict[str, Any] = {"policy": "least_load"}
    for _ in range(depth - 1):
        document = {"policy": "session_affinity", "fallback": document}
    return document


def test_table_is_keyed_by_name() -> None:
    """Each policy stands under the word it calls itself."""
    assert {name: policy.name for name, policy in POLICIES.items()} == {name: name for name in POLICIES}


def test_builds_from_json_and_from_mappings() -> None:
    """Bytes are JSON; any mapping will do, nested ones too."""
    document = {"policy": "session_affinity", "ttl_s": 60, "fallback": {"policy": "least_load", "by": "tokens"}}
    frozen = types.MappingProxyType({**document, "fallback": types.MappingProxyType(document["fallback"])})  # type: ignore[arg-type]
    raw = b'{"policy": "session_affinity", "ttl_s": 60, "fallback": {"policy": "least_load", "by": "tokens"}}'
    assert build_policy(document).describe() == build_policy(raw).describe() == build_policy(frozen).describe()


def test_fallbacks_nest_and_default() -> None:
    """A description shows the whole chain, defaults filled in."""
    policy = build_policy({"policy": "session_affinity", "fallback": {"policy": "consistent_hash", "load_factor": 1.5}})
    assert policy.describe() == {
        "policy": "session_affinity",
        "ttl_s": 3600.0,
        "overload_factor": 2.0,
        "overload_slack": 32,
        "fallback": {
            "policy": "consistent_hash",
            "virtual_nodes": 100,
            "load_factor": 1.5,
            "min_bound": 1,
            "compat": None,
            "fallback": {"policy": "least_load", "by": "requests"},
        },
    }


@pytest.mark.parametrize(
    ("document", "path", "message"),
    [
        pytest.param(b"{", "", "policy document: Input data was truncated, expected a JSON object", id="no-json"),
        pytest.param(b"\xff{}", "", "policy document: JSON is malformed", id="no-text"),
        pytest.param(b'{"fallback":' * 100_000, "", f"expected at most {MAX_DEPTH} nested policies", id="endless-json"),
        pytest.param(
            b"[]", "", 'policy document: got [], expected an object such as {"policy": "least_load"}', id="no-object"
        ),
        pytest.param({}, "policy", f"policy: missing, expected one of {NAMES}", id="no-name"),
        pytest.param({"policy": "rr"}, "policy", f"policy: got 'rr', expected one of {NAMES}", id="unknown-name"),
        pytest.param({"policy": ["rr"]}, "policy", f"policy: got ['rr'], expected one of {NAMES}", id="name-no-text"),
        pytest.param(
            {"policy": "least_load", "fallback": {"policy": "random"}},
            "fallback",
            "fallback: unknown key, expected one of the keys policy, admission, by",
            id="fallback-not-taken",
        ),
        pytest.param(
            {"policy": "session_affinity", "fallback": ["random"]},
            "fallback",
            "fallback: got ['random'], expected an object",
            id="fallback-no-object",
        ),
        pytest.param(
            {"policy": "session_affinity", "fallback": {"policy": "consistent_hash", "virtual_node": 3}},
            "fallback.virtual_node",
            "fallback.virtual_node: unknown key (did you mean 'virtual_nodes'?), expected one of the keys policy, "
            "virtual_nodes, load_factor, min_bound, compat, fallback",
            id="deep-unknown-key",
        ),
        pytest.param(
            nested(MAX_DEPTH + 1),
            ".".join(["fallback"] * MAX_DEPTH),
            f"expected at most {MAX_DEPTH} nested policies",
            id="too-deep",
        ),
    ],
)
def test_refuses_and_says_where(document: dict[str, Any] | bytes, path: str, message: str) -> None:
    """What is not understood is refused, with the path of the bad key, its value and what was expected."""
    with pytest.raises(PolicyConfigError) as caught:
        build_policy(document)
    assert caught.value.key == path
    assert message in str(caught.value)


def test_the_deepest_chain_allowed_builds() -> None:
    """The limit counts policies, the first included."""
    assert build_policy(nested(MAX_DEPTH)).name == "session_affinity"


def test_describe_says_what_may_be_configured() -> None:
    """By name: a sentence, and a JSON schema whose every key says what it means."""
    described = describe(POLICIES)
    assert set(described) == set(POLICIES)
    for name, what in described.items():
        assert what["summary"].endswith("."), name
        config = what["schema"]["$defs"][POLICIES[name].Config.__name__]
        assert config["additionalProperties"] is False
        for key, schema in config["properties"].items():
            assert "description" in schema or any("description" in one for one in schema["anyOf"]), (name, key)


PLUGIN = '''
from pointsman.policies.policy import PlainPolicy, PolicyConfig
from pointsman.policies.decision import Ranked, Reason


class LastConfig(PolicyConfig, frozen=True, kw_only=True):
    pass


class Last(PlainPolicy[LastConfig]):
    """The last candidate."""

    name = "last"
    Config = LastConfig

    def rank(self, features, candidates, context):
        return [Ranked(slot, Reason.CUSTOM) for slot in candidates.slots[::-1].tolist()[: context.limit]]


class Nameless(Last):
    name = "other"


class Unconfigured(Last):
    Config = None


class GreedyConfig(PolicyConfig, frozen=True, kw_only=True):
    policy: str = ""


class Greedy(Last):
    Config = GreedyConfig


class Idle:
    name = "last"
    Config = LastConfig


def last(config):
    return Last(config)
'''

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package that offers policies on `sys.path`, as an installer would; MODULE in a target is its module."""
    modules = iter(range(100))

    def put(package: str, **offered: str) -> None:
        site = tmp_path / package
        info = site / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        module = f"offered_{tmp_path.name}_{next(modules)}".replace("-", "_")
        (site / f"{module}.py").write_text(PLUGIN)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {target.replace('MODULE', module)}" for name, target in offered.items()]
        (info / "entry_points.txt").write_text("\n".join(["[pointsman.policies]", *lines, ""]))
        monkeypatch.syspath_prepend(site)

    return put


def test_an_installed_package_adds_a_policy(install: Install) -> None:
    """A policy offered by entry point builds like one that ships here, as a fallback too."""
    install("fleet-extras", last="MODULE:Last")
    table = load_policies()
    assert set(table) == {*POLICIES, "last"}
    fleet = make_candidates(a=0, b=0, c=9)
    for document in ({"policy": "last"}, {"policy": "consistent_hash", "fallback": {"policy": "last"}}):
        ranked = build_policy(document, table).rank(make_features(), fleet, make_context())
        assert names(ranked, fleet) == ["c", "b"]
    assert describe(table)["last"]["summary"] == "The last candidate."


def test_without_the_package_the_policy_is_unknown() -> None:
    """What is not installed is refused like any unknown name."""
    with pytest.raises(PolicyConfigError, match="got 'last'"):
        build_policy({"policy": "last"}, load_policies())


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        pytest.param({"least_load": "MODULE:Last"}, "the name is taken by pointsman itself", id="built-in-name"),
        pytest.param({"last": "MODULE:Nobody"}, "does not load", id="no-such-class"),
        pytest.param({"last": "no_such_module_at_all:Last"}, "does not load", id="no-such-module"),
        pytest.param({"last": "MODULE:last"}, "is not a class", id="function"),
        pytest.param({"last": "MODULE:Nameless"}, "name is 'other'", id="other-name"),
        pytest.param({"last": "MODULE:Unconfigured"}, "is no PolicyConfig", id="no-config"),
        pytest.param({"last": "MODULE:Greedy"}, "has a field 'policy'", id="reserved-key"),
        pytest.param({"last": "MODULE:Idle"}, "has no rank, admit, terms, describe, close", id="no-policy"),
    ],
)
def test_a_bad_plugin_is_refused_by_name(install: Install, offered: dict[str, str], message: str) -> None:
    """The error names the package and the entry point: whoever installed it knows where to look."""
    install("fleet-extras", **offered)
    with pytest.raises(PolicyPluginError, match=message) as caught:
        load_policies()
    assert str(caught.value).startswith(f"entry point {next(iter(offered))!r} of fleet-extras: ")


def test_two_plugins_may_not_share_a_name(install: Install) -> None:
    """Which of the two would serve depends on the order of a path; neither does."""
    install("extras-one", last="MODULE:Last")
    install("extras-two", last="MODULE:Last")
    with pytest.raises(PolicyPluginError, match="the name is taken by entry point 'last' of extras-"):
        load_policies()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_schema_of_a_document_accepts_what_the_policy_accepts(name: str) -> None:
    """With every default, and with policies by model; an editor that knows the schema warns as the router refuses."""
    schema = Draft202012Validator(document_schema(name, POLICIES))
    Draft202012Validator.check_schema(document_schema(name, POLICIES))
    whole = build_policy({"policy": name}, POLICIES).describe()
    for document in (
        {"policy": name},
        whole,
        whole | {"models": {"m": {"policy": "random"}}},
    ):
        schema.validate(document)
        build_policy_set(document, POLICIES)
    for wrong in (
        {"policy": "nobody"},
        {"policy": name, "surprise": 1},
        {"policy": name, "models": {"m": {"policy": "nobody"}}},
        {"policy": name, "models": {"": {"policy": "random"}}},
        *([{"policy": name, "fallback": {"policy": "nobody"}}] if "fallback" in whole else ()),
    ):
        assert not schema.is_valid(wrong), wrong
        with pytest.raises(PolicyConfigError):
            build_policy_set(wrong, POLICIES)
