"""Actions of an ACK as bytes; what HAProxy makes of them is in the tests of frames."""

import pytest

from pointsman.haproxy.spop import Scope, SetVar, UnsetVar, UsageError, encode_actions, encode_set_var, encode_set_vars
from pointsman.haproxy.spop.actions import text_setter


def test_variables_are_set_alike_one_by_one_and_all_together() -> None:
    """And as actions; an action takes a variable away, too."""
    one, other = encode_set_var(Scope.TXN, "a", "x"), encode_set_var(Scope.TXN, "b", 7)
    assert encode_set_vars(Scope.TXN, {"a": "x", "b": 7}) == one + other
    assert encode_actions([SetVar(Scope.TXN, "a", "x"), SetVar(Scope.TXN, "b", 7)]) == one + other
    assert encode_actions([UnsetVar(Scope.TXN, "a")]) == b"\x02\x02\x02\x01a"


@pytest.mark.parametrize("name", ["", "ö"])
def test_a_name_that_haproxy_cannot_have_is_refused(name: str) -> None:
    """Before anything is sent."""
    with pytest.raises(UsageError, match="a name of ASCII"):
        encode_set_var(Scope.TXN, name, "x")


def test_a_setter_of_one_variable_makes_the_same_action() -> None:
    """Of any text whose length is one byte; a longer one is refused."""
    setter = text_setter(Scope.TXN, "rate_tokens")
    for text in ("", "6000/250/4s", "x" * 239):
        assert setter(text.encode()) == encode_set_var(Scope.TXN, "rate_tokens", text)
    with pytest.raises(UsageError, match="239"):
        setter(b"x" * 240)
