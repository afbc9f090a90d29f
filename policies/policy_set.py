"""The policies of one document: one for every model, and others for models that have one of their own.

`PolicySet` owns the policies. Which of them is asked follows from the name that a request asks for: an alias or an
adapter is a name of its own.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping

from pointsman.policies.policy import Needs, Policy, PolicyDocument, needs_of

KEY_MODELS = "models"
"""Key of a document that has policies by model."""

MAX_MODELS = 256
"""Models with a policy of their own: each policy keeps some memory, and a longer list is a mistake."""

MODEL_NAME_MAX = 256
"""Characters of a model's name; longer ones are cut in requests, and would never match."""


class PolicySet:
    """The policies of one document."""

    __slots__ = ("main", "models", "needs")

    def __init__(self, main: Policy, models: Mapping[str, Policy] | None = None) -> None:
        """main: for every model that has no policy of its own. models: policies by model."""
        self.main = main
        self.models = dict(models or {})
        own = Needs.MODEL if self.models else Needs.NOTHING
        self.needs: Needs = functools.reduce(operator.or_, map(needs_of, self), own)
        """Needs of all of them together, and the model where it decides which of them is asked."""

    def __iter__(self) -> Iterator[Policy]:
        yield self.main
        yield from self.models.values()

    def __repr__(self) -> str:
        return f"PolicySet({self.main!r}, {len(self.models)} models)"

    def of(self, model: str) -> Policy:
        """The policy for the name that a request asks for; empty for a request that names none."""
        return self.models.get(model, self.main)

    def describe(self) -> PolicyDocument:
        """The full document with defaults filled in."""
        document = self.main.describe()
        if self.models:
            document = document | {KEY_MODELS: {model: policy.describe() for model, policy in self.models.items()}}
        return document

    def close(self) -> None:
        """Close every policy of the set."""
        for policy in self:
            policy.close()


def document_for(document: Mapping[str, object], model: str) -> Mapping[str, object]:
    """The part of a described document that is about a model: that of its own policy, or all but policies by model."""
    models = document.get(KEY_MODELS)
    if isinstance(models, Mapping) and model in models:
        own = models[model]
        assert isinstance(own, Mapping), "described documents fit"
        return own
    return {key: value for key, value in document.items() if key != KEY_MODELS}
