"""The rules of lookups, as HAProxy's configuration states them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pointsman.haproxy.config import Bind, EdgeConfig
from pointsman.haproxy.lookup_rules import LookupRules

HEADERS = st.from_regex(r"[A-Za-z0-9!&*.^_|~-]{1,64}", fullmatch=True)
PATHS = st.from_regex(r"/[A-Za-z0-9_./~:@%+-]{0,255}", fullmatch=True)
MODELS = st.from_regex(r"[A-Za-z0-9_.:/@+-]{1,256}", fullmatch=True)

RULES = st.builds(
    LookupRules,
    session_headers=st.lists(HEADERS, max_size=4).map(tuple),
    generation_paths=st.lists(PATHS, min_size=1, max_size=4).map(tuple),
    model_header=st.just("") | HEADERS,
    version_header=st.just("") | HEADERS,
    path_models=st.dictionaries(PATHS, MODELS, max_size=3),
    api_keys_map=st.just("") | st.just("/etc/keys=1@x.map"),
    policy_override=st.booleans(),
)


@given(RULES)
def test_what_is_stated_is_read(rules: LookupRules) -> None:
    assert LookupRules.read(rules.stated()) == rules


def test_a_newer_haproxy_may_state_more() -> None:
    """Of what the router does not know nothing is read."""
    rules = LookupRules(session_headers=("x-session-id",))
    assert LookupRules.read(f"colour=blue {rules.stated()} later") == rules


def test_the_defaults_are_those_of_an_edge() -> None:
    """What a router assumes where nothing is stated is what most edges have."""
    edge = EdgeConfig(binds=(Bind("*", 80),), ring_address="h:1", spop_address="h:2", admin_socket="/a")
    assert LookupRules.of(edge) == LookupRules()
