"""Models that the fleet serves, as the admin API shows them to operators."""

from __future__ import annotations

from typing import Annotated

import msgspec


class AdapterView(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter of a model."""

    name: str
    replicas: Annotated[int, msgspec.Meta(description="Replicas that serve the adapter.")]
    loaded: Annotated[int, msgspec.Meta(description="Replicas that have the adapter loaded, or are loading it.")]


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model and the replicas that serve it."""

    model: Annotated[str, msgspec.Meta(description="Name of the model; empty: replicas whose model nobody knows.")]
    aliases: Annotated[list[str], msgspec.Meta(description="Other names that requests may use for the model.")]
    context_tokens: Annotated[int | None, msgspec.Meta(description="Longest context; null: unknown.")]
    replicas: Annotated[dict[str, int], msgspec.Meta(description="Number of replicas by state.")]
    serving: Annotated[
        int, msgspec.Meta(description="Replicas that may get a request at this moment; prefill replicas do not count.")
    ]
    adapters: list[AdapterView]


class ServedModelList(msgspec.Struct, frozen=True, kw_only=True):
    models: Annotated[list[ServedModel], msgspec.Meta(description="Models, by name.")]
