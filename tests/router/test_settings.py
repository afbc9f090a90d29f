"""Settings: read once, strictly, with errors that name source, key, value and expectation."""

import re
from pathlib import Path

import pytest

from pointsman.router.errors import SettingsError
from pointsman.router.process.listen import Listen
from pointsman.router.settings import DEFAULT_POLICY, load_settings


def load(tmp_path: Path, text: str = "", environment: dict[str, str] | None = None, **overrides: object):
    path = tmp_path / "router.yaml"
    path.write_text(text)
    return load_settings(path, environment=environment or {}, overrides=overrides)


def test_defaults_are_complete(tmp_path: Path) -> None:
    """An empty file is a valid router."""
    settings = load(tmp_path)
    assert settings.policy == DEFAULT_POLICY
    assert settings.admin.listen.is_loopback


def test_flags_go_before_environment_before_file(tmp_path: Path) -> None:
    """Each level overrides single keys of the one below."""
    text = "admin: {port: 1000}\nspop: {port: 1001}\nring: {port: 1002}\n"
    environment = {"POINTSMAN_SPOP__PORT": "2001", "POINTSMAN_RING__PORT": "2002"}
    settings = load(tmp_path, text, environment, ring={"port": 3002}, lookup={"port": None})
    assert (settings.admin.port, settings.spop.port, settings.ring.port) == (1000, 2001, 3002)


def test_a_policy_is_replaced_whole(tmp_path: Path) -> None:
    """Half of one policy document and half of another is neither."""
    text = "policy: {policy: session_affinity, ttl_s: 5}\n"
    assert load(tmp_path, text, policy={"policy": "random"}).policy == {"policy": "random"}


@pytest.mark.parametrize(
    ("text", "environment", "says"),
    [
        pytest.param("admin: {port: 99999}", {}, ["router.yaml", "admin.port", "99999", "from 0 to 65535"], id="range"),
        pytest.param("admin: {prot: 1}", {}, ["admin.prot: unknown key", "one of the keys", "token"], id="unknown key"),
        pytest.param("edges: 1", {}, ["edges", "unknown key", "did you mean 'edge'"], id="unknown section"),
        pytest.param("log: {level: loud}", {}, ["log.level", "loud"], id="not one of"),
        pytest.param("", {"POINTSMAN_EDGE__INTERVAL_S": "-1"}, ["EDGE__INTERVAL_S", "-1", "above 0"], id="variable"),
        pytest.param("policy: {policy: nope}", {}, ["policy", "nope", "least_load"], id="unknown policy"),
        pytest.param("policy: {policy: least_load, by: words}", {}, ["by", "words"], id="bad policy value"),
        pytest.param("- 1", {}, ["router.yaml", "mapping"], id="not a mapping"),
        pytest.param("a: [", {}, ["router.yaml", "not YAML"], id="not YAML"),
        pytest.param("admin: {host: 0.0.0.0}", {}, ["admin.token", "bearer token", "loopback"], id="open admin"),
        pytest.param("replicas: [{id: a}]", {}, ["replicas", "url"], id="missing key in a list"),
    ],
)  # fmt: skip
def test_an_error_names_what_is_wrong(tmp_path: Path, text: str, environment: dict[str, str], says: list[str]) -> None:
    """Source, key, value and what was expected are all in the one sentence."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, environment)
    for word in says:
        assert word in str(caught.value)


def test_a_missing_file_is_named() -> None:
    """No traceback for a typing error in a path."""
    with pytest.raises(SettingsError, match="/no/such/file: cannot be read"):
        load_settings(Path("/no/such/file"), environment={})


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("::1", True),
                                                ("0.0.0.0", False), ("example.org", False)])  # fmt: skip
def test_loopback_is_recognised(host: str, loopback: bool) -> None:
    """It decides whether a token is required."""
    assert Listen(host, 1).is_loopback is loopback


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("hosts", "http://a"),
        ("hosts", "a b"),
        ("hosts", ""),
        ("engine_networks", "10.0.0.1/8"),
        ("engine_networks", "x"),
    ],
)
def test_hosts_and_networks_of_the_admin_api_are_checked_at_start(key: str, wrong: str) -> None:
    """A name with a port would never match, and a network misspelt would keep every replica out."""
    with pytest.raises(SettingsError, match=rf"^command line: admin\.{key}: got {re.escape(repr(wrong))}, expected "):
        load_settings(environment={}, overrides={"admin": {key: [wrong]}})
