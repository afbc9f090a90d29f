"""What the errors say."""

from __future__ import annotations

from pointsman.policies.errors import PolicyConfigError, PolicyError, PolicyPluginError


def test_config_error_of_the_whole_document() -> None:
    """Where no key is to blame the document is."""
    assert str(PolicyConfigError("", [], "an object")) == "policy document: got [], expected an object"


def test_one_base_catches_both() -> None:
    """Whoever builds a policy can catch all that may be wrong with it."""
    assert issubclass(PolicyConfigError, PolicyError)
    assert issubclass(PolicyPluginError, PolicyError)
