"""The state file: what a router restarted on the same host needs to take over at once.

`StateFile` owns one JSON document, written whole (write, sync, rename), so that a reader meets the old one or the
new one. Writing is the caller's to schedule; the file is a few hundred bytes a replica.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from pointsman.contract.private_files import write_private
from pointsman.contract.registration import Registration, ReplicaId, Role
from pointsman.router.errors import StateFileError

SCHEMA_VERSION = 1

MAX_STATE_BYTES = 16 * 1024 * 1024
"""4,096 replicas at their longest take 3 MB; a larger file is not ours."""


class SavedReplica(msgspec.Struct, frozen=True, kw_only=True):
    """One registration as saved, with its drain flag. Leases start afresh when loaded."""

    id: ReplicaId
    url: str
    host: str
    """IP address behind the URL, as resolved when it was registered."""
    port: int
    model: str = ""
    ttl_s: float | None = None
    draining: bool = False
    role: Role = Role.BOTH
    pool: str = ""
    adapters: list[str] = []
    health_path: str = ""
    born_ms: int = 0
    renames_model: bool = False

    @property
    def registration(self) -> Registration:
        """The registration as the replica made it."""
        return Registration(
            url=self.url,
            model=self.model,
            ttl_s=self.ttl_s,
            adapters=self.adapters,
            health_path=self.health_path,
            role=self.role,
            pool=self.pool,
            born_ms=self.born_ms,
            renames_model=self.renames_model,
        )


class PolicyRevision(msgspec.Struct, frozen=True, kw_only=True):
    """One policy document that is or was live, or that a rollout tried."""

    revision: int
    document: dict[str, Any]
    """All defaults filled in."""
    at_s: float
    """When it was put, in seconds since 1970."""
    author: str = ""
    why: str = ""
    live: bool = True
    """Whether the document was live for all requests; False for one that a rollout tried on a share of them."""


class SavedState(msgspec.Struct, frozen=True, kw_only=True):
    """State that a restarted router needs to take over at once."""

    schema: int = SCHEMA_VERSION
    replicas: list[SavedReplica] = []
    policy: dict[str, Any] | None = None
    """The policy document put live through the admin API, if any."""
    configured_policy: dict[str, Any] | None = None
    """The document that was configured when `policy` was put; a changed configuration wins over a saved policy."""
    policy_revisions: list[PolicyRevision] = []
    """The latest revisions of the live policy, oldest first."""


class StateFile:
    """Reads and writes a `SavedState`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"StateFile({str(self._path)!r})"

    def load(self) -> SavedState:
        """The saved state, empty when there is no file yet. Raises StateFileError."""
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return SavedState()
        except OSError as error:
            raise StateFileError(f"state_file: {self._path}: cannot be read: {error.strerror}") from error
        if len(raw) > MAX_STATE_BYTES:
            raise StateFileError(f"state_file: {self._path}: {len(raw)} bytes, at most {MAX_STATE_BYTES} are expected")
        try:
            version = msgspec.json.decode(raw, type=_Version).schema
            if version > SCHEMA_VERSION:
                raise StateFileError(
                    f"state_file: {self._path}: schema {version} is later than {SCHEMA_VERSION}, the latest known here"
                )
            return msgspec.json.decode(raw, type=SavedState)
        except msgspec.MsgspecError as error:
            raise StateFileError(f"state_file: {self._path}: {error}") from error

    def save(self, state: SavedState) -> None:
        """Replaces the file, with mode 0600. Raises OSError when the directory does not take it."""
        partial = self._path.with_name(self._path.name + ".partial")
        write_private(partial, msgspec.json.format(msgspec.json.encode(state), indent=1), sync=True)
        partial.replace(self._path)

    def set_aside(self) -> Path:
        """Renames a file that cannot be read to `*.bad`, in place of one that has that name; the new path.

        Raises OSError when the directory does not allow it.
        """
        return self._path.replace(self._path.with_name(self._path.name + ".bad"))


class _Version(msgspec.Struct):
    schema: int
