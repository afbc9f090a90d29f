"""What the errors say."""

from __future__ import annotations

from pointsman.policies.errors import PolicyConfigError, PolicyError, PolicyPluginError


def test_config_error_names_key_value_and_expectation() -> None:
    """The sentence and the attributes carry the same three facts."""
    error = PolicyConfigError("fallback.by", "tonnes", "'requests' or 'tokens'")
    assert str(error) == "fallback.by: got 'tonnes', expected 'requests' or 'tokens'"
    assert (error.path, error.value, error.expected) == ("fallback.by", "tonnes", "'requests' or 'tokens'")


def test_config_error_of_the_whole_document() -> None:
    """Where no key is to blame the document is."""
    assert str(PolicyConfigError("", [], "an object")) == "policy document: got [], expected an object"


def test_a_long_value_is_cut() -> None:
    """An error stays one line, whatever was put."""
    assert len(str(PolicyConfigError("by", "x" * 10_000, "a unit"))) < 200


def test_one_base_catches_both() -> None:
    """Whoever builds a policy can catch all that may be wrong with it."""
    assert issubclass(PolicyConfigError, PolicyError)
    assert issubclass(PolicyPluginError, PolicyError)
