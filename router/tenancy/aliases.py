"""Aliases: names that requests may ask for, each of which stands for a model, or for several versions of one by weight.

A document is what `pointsman.router.documents` keeps under `alias/NAME`, and what the admin API takes and shows. The
first version is the *stable* one: what takes all new sessions while the others are paused, what they are compared with,
and where sessions go when a version is rolled back. All here are plain values; a field of a later version is passed
over, so that edges of two versions can share documents.
"""

from __future__ import annotations

from typing import Annotated, Self

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from pointsman.router.tenancy.records import DocumentError

MODEL_PATTERN = r"^[A-Za-z0-9_.:/@+-]{1,256}$"
"""Names of versions' models go into headers and HAProxy's maps."""

ALIAS_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$"
"""Names of aliases also stand in paths of the admin API."""

MAX_VERSIONS = 8
MAX_WEIGHT = 1_000_000

AliasName = Annotated[str, Meta(pattern=ALIAS_PATTERN, description="Name that requests ask for.")]
VersionModel = Annotated[str, Meta(pattern=MODEL_PATTERN, description="Model, as replicas serve it.")]


class AliasVersion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that an alias stands for."""

    model: VersionModel
    weight: Annotated[
        float, Meta(ge=0, le=MAX_WEIGHT, description="Share of new sessions, relative to the other versions.")
    ] = 1.0
    withdrawn: Annotated[
        bool, Meta(description="Whether sessions that began with this version are served by the stable one.")
    ] = False


class StopBounds(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits to how much worse than the stable version another one may be before it gets no more sessions."""

    error_share: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=1,
                description="Largest excess of the share of 5xx answers and cut streams over the stable version; "
                "absent: any.",
            ),
        ]
        | None
    ) = None
    ttft_p99_ratio: (
        Annotated[
            float,
            Meta(
                ge=1,
                le=1000,
                description="Largest ratio of the 99th percentile of the time to first token to that of the stable "
                "version; absent: any.",
            ),
        ]
        | None
    ) = None
    min_requests: Annotated[
        int, Meta(ge=1, le=100_000, description="Requests of each version in the window below which nothing is said.")
    ] = 50
    window_s: Annotated[float, Meta(ge=1, le=86_400, description="Requests that count: those of so many seconds.")] = (
        300.0
    )
    roll_back: Annotated[
        bool,
        Meta(description="Whether sessions of the version move to the stable one too; else it gets no new ones."),
    ] = False


class Alias(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An alias and its versions, the stable one first."""

    name: AliasName
    versions: Annotated[tuple[AliasVersion, ...], Meta(min_length=1, max_length=MAX_VERSIONS)]
    paused: Annotated[bool, Meta(description="Whether new sessions all begin with the stable version.")] = False
    override: Annotated[
        bool,
        Meta(description="Whether requests may name their version in the header that `version_header` allows."),
    ] = False
    stop: StopBounds | None = None
    """Bounds beyond which a version that is not the stable one is stopped; None: no bounds."""

    def __post_init__(self) -> None:
        models = [version.model for version in self.versions]
        if len(set(models)) < len(models):
            raise DocumentError(f"versions: {', '.join(models)}: models that differ are expected")
        if self.name in models:
            raise DocumentError(f"versions: {self.name}: an alias cannot stand for itself")
        if self.versions[0].withdrawn:
            raise DocumentError(f"versions: {self.stable}: the first, stable version cannot be withdrawn")
        if not sum(version.weight for version in self.versions if not version.withdrawn):
            raise DocumentError("versions: at least one weight above 0 is expected")

    @property
    def stable(self) -> str:
        """Model of the stable version."""
        return self.versions[0].model

    @property
    def canaries(self) -> tuple[AliasVersion, ...]:
        """Versions besides the stable one."""
        return self.versions[1:]

    def version(self, model: str) -> AliasVersion | None:
        """The version of a model; None where there is none."""
        return next((version for version in self.versions if version.model == model), None)

    def shares(self) -> dict[str, float]:
        """Share of new sessions by model, 0 to 1."""
        weights = {version.model: 0.0 if version.withdrawn else version.weight for version in self.versions}
        if self.paused:
            return {model: float(model == self.stable) for model in weights}
        total = sum(weights.values())
        return {model: weight / total for model, weight in weights.items()}

    # Steps of a rollout

    def promoted(self, model: str) -> Self:
        """The alias with one version stable and for all new sessions. Raises DocumentError for a model it has not."""
        chosen = self.version(model)
        if chosen is None:
            raise DocumentError(f"{model!r} is no version of the alias {self.name}")
        others = [replace(version, weight=0.0) for version in self.versions if version.model != model]
        return replace(self, versions=(replace(chosen, weight=100.0, withdrawn=False), *others), paused=False)

    def held(self, paused: bool = True) -> Self:
        """The alias paused, or going on by its weights."""
        return replace(self, paused=paused)

    def rolled_back(self, *models: str) -> Self:
        """The alias with versions withdrawn, all but the stable one if none is named: sessions too are the stable
        version's. Raises DocumentError for the stable version and for a model it has not."""
        for model in models:
            if self.version(model) is None or model == self.stable:
                raise DocumentError(f"{model!r} is no version of the alias {self.name} besides the stable one")
        withdrawn = set(models) or {version.model for version in self.canaries}
        stable, *others = (
            replace(version, weight=0.0, withdrawn=True) if version.model in withdrawn else version
            for version in self.versions
        )
        return replace(self, versions=(replace(stable, weight=stable.weight or 100.0), *others))

    def sentence(self, why: str = "") -> str:
        """What the alias stands for, as one sentence for those who look afterwards."""
        shares = ", ".join(f"{model} {100 * share:.4g} %" for model, share in self.shares().items())
        said = f" ({why})" if why else ""
        return f"alias {self.name} stands for {shares}{' while it is paused' if self.paused else ''}{said}"

    def body(self) -> dict[str, object]:
        """The alias as the content of its document."""
        content: dict[str, object] = msgspec.to_builtins(self)
        return content
