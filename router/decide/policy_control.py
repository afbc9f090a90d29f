"""Changing the live policy: build, validate, swap, then close the old.

`PolicyControl` owns the document that is live, its version and its revisions. A change that fails leaves the policy
that decides untouched and is counted; a change may be conditional on the version the writer has seen. To put the live
document again makes no revision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from pointsman.policies.errors import PolicyError
from pointsman.policies.policy import Policy
from pointsman.policies.policy_set import PolicySet, document_for
from pointsman.policies.registry import build_policy, build_policy_set
from pointsman.router.counts.requests import DecisionMetrics
from pointsman.router.decide.body_needs import body_window
from pointsman.router.decide.pipeline import Pipeline
from pointsman.router.decide.policy_history import PolicyHistory, etag_of
from pointsman.router.fleet.saved import PolicyRevision

CONFIGURATION = "configuration"
"""Author of the document that a router starts with."""

log = structlog.get_logger(__name__)


class StaleVersionError(Exception):
    """The writer's `If-Match` names another version than the live one, or another edge was faster."""


class PolicyControl:
    """The one writer of the live policy."""

    def __init__(
        self,
        pipeline: Pipeline,
        metrics: DecisionMetrics,
        configured: Mapping[str, Any],
        *,
        on_changed: Callable[[], None] = lambda: None,
        window_bytes: Callable[[], int] = lambda: 0,
        serves: Callable[[str], bool] = lambda model: True,
        wall: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """window_bytes: how far HAProxy looks into bodies, 0 where nobody knows.
        serves: whether something registered may serve a model.
        wall: seconds since 1970."""
        self._serves = serves
        self._wall = wall
        self._pipeline = pipeline
        self._window_bytes = window_bytes
        self._on_changed = on_changed
        self._metrics = metrics
        self.configured = dict(configured)
        self.history = PolicyHistory()
        self.revision: PolicyRevision = self.history.add(
            self.document, wall(), author=CONFIGURATION, why="the router started with it"
        )
        """The live one."""
        self.put_live: dict[str, Any] | None = None
        """The document last put through the admin API; None while the configured one decides."""

    @property
    def document(self) -> dict[str, object]:
        """The live policy with every default filled in."""
        return dict(self._pipeline.describe())

    def policy_of(self, name: str, revision: int, model: str = "") -> Policy | None:
        """Build the policy that decided at a revision of the live document, or by its name alone for revision 0.

        model: name that the request asked for.
        None for a revision that is no longer known, or a policy that cannot be built any more.
        """
        document: Mapping[str, Any] = {"policy": name}
        if revision:
            known = self.history.get(revision)
            if known is None:
                return None
            document = document_for(known.document, model)
        try:
            return build_policy(document)
        except PolicyError:
            return None

    @property
    def etag(self) -> str:
        """Strong entity tag of the live document; equal documents have equal tags on every router."""
        return etag_of(self.document)

    @property
    def revision_line(self) -> str:
        """The live revision as the end of a sentence: its number, and who put it why where that is known."""
        by = f" by {self.revision.author}" if self.revision.author else ""
        return f"revision {self.revision.revision}{by}" + (f": {self.revision.why}" if self.revision.why else "")

    def put(
        self,
        document: Mapping[str, Any] | bytes,
        *,
        if_match: str | None = None,
        dry_run: bool = False,
        asked: bool = True,
        author: str = "",
        why: str = "",
    ) -> dict[str, object]:
        """Makes a document live; what it became, defaults filled in.

        asked: whether a caller waits for the answer and reads the refusal. Where nobody does (the state file, another
        edge), a refusal leaves in doubt which policy should be live, and `pointsman_config_last_reload_successful` is 0
        until a change succeeds.
        author: who puts it. why: the reason that the author gives.
        Raises PolicyError for a bad document, and StaleVersionError when `if_match` names another version.
        """
        if if_match is not None and if_match not in ("*", self.etag):
            raise StaleVersionError(f"If-Match: {if_match}: the live policy is {self.etag}, {self.revision_line}")
        try:
            policies = build_policy_set(document)
        except PolicyError:
            if not dry_run:
                if not asked:
                    self._metrics.policy_reload_ok = 0
                self._metrics.policy_reloads["refused"] += 1
            raise
        if dry_run:
            described = dict(policies.describe())
            policies.close()
            return described
        before = self._pipeline.policy.name
        self._swap(policies, author=author, why=why)
        self.put_live = dict(policies.describe())
        self._metrics.policy_reload_ok = 1
        self._metrics.policy_reloads["applied"] += 1
        self._on_changed()
        log.info("policy changed", before=before, after=policies.main.name, version=self.etag)
        for warning in self.warnings(self.put_live):
            log.warning("policy is not served as it should be", cause=warning)
        return self.document

    def _swap(self, policies: PolicySet, *, author: str, why: str) -> None:
        document = policies.describe()
        if document != self.revision.document:
            self.revision = self.history.add(document, self._wall(), author=author, why=why)
        self._pipeline.swap_policies(policies, self.revision.revision)

    def try_out(self, policies: PolicySet, *, author: str, why: str) -> PolicyRevision:
        """Give a document a revision that is not live, so that decisions made by it can be explained."""
        return self.history.add(policies.describe(), self._wall(), author=author, why=why, live=False)

    def warnings(self, document: Mapping[str, Any]) -> list[str]:
        """Return warnings about a valid document, one sentence each; none where HAProxy supports all of it."""
        policies = build_policy_set(document)
        policies.close()
        wanted, window = body_window(policies.needs), self._window_bytes()
        warnings = []
        if 0 < window < wanted:
            warnings.append(
                f"{policies.main.name} goes by the first {wanted} bytes of a body, and HAProxy looks at {window}: "
                "longer prompts that begin alike are not told apart. `pointsman up` reloads HAProxy with a larger "
                "window within seconds, unless its file sets body_window_bytes; elsewhere render HAProxy's files with "
                f"body_window_bytes: {wanted} and reload it."
            )
        if unserved := [model for model in policies.models if not self._serves(model)]:
            names = ", ".join(sorted(unserved))
            warnings.append(f"no replica serves {names}: policies by model go by the names that requests ask for")
        return warnings

    def restore(
        self,
        saved: Mapping[str, Any] | None,
        saved_configured: Mapping[str, Any] | None,
        revisions: Sequence[PolicyRevision] = (),
    ) -> None:
        """Puts a saved live policy back, unless the configuration changed since: then the configuration wins.

        revisions: those that were saved; numbers go on from there.
        """
        self.history.restore(revisions)
        # What was live when the state was saved: the same document again makes no revision.
        self.revision = self.history.live_before(self.history.latest + 1) or self.revision
        why = "the router started with it"
        if saved is not None and saved_configured == self.configured:
            try:
                self.put(saved, asked=False, author=self.revision.author, why=self.revision.why)
            except PolicyError as error:
                log.warning("saved policy is not usable; the configured one decides", error=str(error))
                why = f"the saved policy is not usable: {error}"
            else:
                return
        self._swap(build_policy_set(self.configured), author=CONFIGURATION, why=why)
