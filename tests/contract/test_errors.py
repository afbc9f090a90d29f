"""What a configuration error says."""

from __future__ import annotations

import pickle

from pointsman.contract.errors import ConfigurationError


class _OurError(ConfigurationError):
    """As a package derives its own."""

    document = "our file"


def test_it_names_source_key_value_and_expectation() -> None:
    """The sentence and the attributes carry the same facts."""
    error = ConfigurationError("admin.port", 70_000, "0 to 65535", source="edge.yaml")
    assert str(error) == "edge.yaml: admin.port: got 70000, expected 0 to 65535"
    assert (error.source, error.key, error.value, error.expected) == ("edge.yaml", "admin.port", 70_000, "0 to 65535")


def test_a_problem_stands_in_place_of_the_value() -> None:
    """A missing key has no value."""
    assert str(ConfigurationError("port", None, "a number", "missing")) == "port: missing, expected a number"


def test_where_no_key_is_to_blame_the_source_or_the_document_is() -> None:
    """An error always begins with what it is about."""
    assert str(ConfigurationError("", [], "an object")) == "document: got [], expected an object"
    assert (
        str(ConfigurationError("", [], "an object", source="--config: a")) == "--config: a: got [], expected an object"
    )
    assert str(_OurError("", [], "an object")) == "our file: got [], expected an object"


def test_a_long_value_is_cut() -> None:
    """An error stays one line, whatever was given."""
    assert len(str(ConfigurationError("by", "x" * 10_000, "a unit"))) < 200


def test_it_crosses_process_borders() -> None:
    """Ray pickles the exceptions of its actors."""
    error = _OurError("port", 1, "2", "half", "there")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is _OurError and str(copy) == str(error) and copy.key == "port"
