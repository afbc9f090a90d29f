"""What HAProxy must read of bodies."""

import pytest

from pointsman.policies.policy import Needs
from pointsman.router.decide.body_needs import BodyNeeds, body_needs


@pytest.mark.parametrize(
    ("policy", "models", "needs"),
    [
        pytest.param(Needs.NOTHING, 1, BodyNeeds.NOTHING, id="balancing reads no body"),
        pytest.param(Needs.SESSION, 1, BodyNeeds.FIELDS_WITHOUT_SESSION, id="sessions: only where no header has one"),
        pytest.param(Needs.SESSION | Needs.PIN, 0, BodyNeeds.FIELDS_WITHOUT_SESSION, id="an empty fleet is one model"),
        pytest.param(Needs.NOTHING, 2, BodyNeeds.FIELDS | BodyNeeds.MODELS, id="two models: the name decides"),
        pytest.param(Needs.TOKENS, 1, BodyNeeds.FIELDS, id="tokens: max_tokens is in the body"),
        pytest.param(Needs.MODEL, 1, BodyNeeds.FIELDS, id="policies by model: the name is in the body"),
        pytest.param(Needs.PREFIX, 1, BodyNeeds.PREFIX_KEYS, id="prefix keys"),
        pytest.param(
            Needs.PREFIX | Needs.SESSION, 2, BodyNeeds.PREFIX_KEYS | BodyNeeds.FIELDS | BodyNeeds.MODELS, id="all"
        ),
    ],
)
def test_bodies_are_read_only_for_what_is_needed(policy: Needs, models: int, needs: BodyNeeds) -> None:
    """Session hashing with a session header pays nothing for the body."""
    assert body_needs(policy, models) == needs
