"""Changing the live policy: build, validate, swap, then close the old.

`PolicyControl` owns the document that is live and its version. A change that fails leaves the policy that decides
untouched and is counted; a change may be conditional on the version the writer has seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from pointsman.policies.errors import PolicyError
from pointsman.policies.policy import Policy
from pointsman.policies.registry import build_policy
from pointsman.router.counts.requests import DecisionMetrics
from pointsman.router.decide.body_needs import body_window
from pointsman.router.decide.pipeline import Pipeline
from pointsman.router.decide.policy_history import PolicyHistory

log = structlog.get_logger(__name__)


class StaleVersionError(Exception):
    """The writer's `If-Match` names another version than the live one."""


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
        wall: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """window_bytes: how far HAProxy looks into bodies, 0 where nobody knows.
        wall: seconds since 1970."""
        self._wall = wall
        self._pipeline = pipeline
        self._window_bytes = window_bytes
        self._on_changed = on_changed
        self._metrics = metrics
        self.configured = dict(configured)
        self.history = PolicyHistory()
        """Every document that was live since the router started; the last one is."""
        self.history.add(self.document, wall())
        self.put_live: dict[str, Any] | None = None
        """The document last put through the admin API; None while the configured one decides."""

    @property
    def document(self) -> dict[str, object]:
        """The live policy with every default filled in."""
        return dict(self._pipeline.policy.describe())

    def policy_of(self, name: str, revision: int) -> Policy | None:
        """Build the policy that decided at a revision of the live document, or by its name alone for revision 0.

        None for a revision that is no longer known, or a policy that cannot be built any more.
        """
        document: Mapping[str, Any] = {"policy": name}
        if revision:
            known = self.history.get(revision)
            if known is None:
                return None
            document = known.document
        try:
            return build_policy(document)
        except PolicyError:
            return None

    @property
    def etag(self) -> str:
        """Strong entity tag of the live document; equal documents have equal tags on every router."""
        canonical = msgspec.json.encode(self.document, order="sorted")
        return f'"{hashlib.blake2b(canonical, digest_size=8).hexdigest()}"'

    def put(
        self,
        document: Mapping[str, Any] | bytes,
        *,
        if_match: str | None = None,
        dry_run: bool = False,
        asked: bool = True,
    ) -> dict[str, object]:
        """Makes a document live; what it became, defaults filled in.

        `asked` is whether a caller waits for the answer and reads the refusal. Where nobody does (the state file,
        another edge), a refusal leaves in doubt which policy should be live, and
        `pointsman_config_last_reload_successful` is 0 until a change succeeds. Raises PolicyError for a bad document,
        and StaleVersionError when `if_match` names another version.
        """
        if if_match is not None and if_match not in ("*", self.etag):
            raise StaleVersionError(f"If-Match: {if_match}: the live policy is {self.etag}")
        try:
            policy = build_policy(document)
        except PolicyError:
            if not dry_run:
                if not asked:
                    self._metrics.policy_reload_ok = 0
                self._metrics.policy_reloads["refused"] += 1
            raise
        if dry_run:
            described = dict(policy.describe())
            policy.close()
            return described
        before = self._pipeline.policy.name
        revision = self.history.add(policy.describe(), self._wall())
        self._pipeline.swap_policy(policy, revision.revision)
        self.put_live = dict(policy.describe())
        self._metrics.policy_reload_ok = 1
        self._metrics.policy_reloads["applied"] += 1
        self._on_changed()
        log.info("policy changed", before=before, after=policy.name, version=self.etag)
        for warning in self.warnings(self.put_live):
            log.warning("policy is not served as it should be", cause=warning)
        return self.document

    def warnings(self, document: Mapping[str, Any]) -> list[str]:
        """Return warnings about a valid document, one sentence each; none where HAProxy supports all of it."""
        policy = build_policy(document)
        wanted, window = body_window(policy.needs), self._window_bytes()
        policy.close()
        if not 0 < window < wanted:
            return []
        return [
            f"{policy.name} goes by the first {wanted} bytes of a body, and HAProxy looks at {window}: longer prompts "
            "that begin alike are not told apart. `pointsman up` reloads HAProxy with a larger window within seconds, "
            "unless its file sets body_window_bytes; elsewhere render HAProxy's files with "
            f"body_window_bytes: {wanted} and reload it."
        ]

    def restore(self, saved: Mapping[str, Any] | None, saved_configured: Mapping[str, Any] | None) -> None:
        """Puts a saved live policy back, unless the configuration changed since: then the configuration wins."""
        if saved is None or saved_configured != self.configured:
            return
        try:
            self.put(saved, asked=False)
        except PolicyError as error:
            log.warning("saved policy is not usable; the configured one decides", error=str(error))
