"""Renaming of the model in requests for an alias, and in the answers to them.

A client asks for an alias; HAProxy names the model that the alias stands for, in `MODEL_HEADER`. An engine that does
not know aliases is given the request with that name, and the client gets the answer with the name that it asked for.

A body is taken apart no further than to the fields of its outermost object. An event of a stream is not taken apart at
all: where the engine writes its model's name, the alias is put in place. In the text of an answer quotes are escaped,
so no text can be mistaken for that place.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

MODEL_HEADER = "x-pointsman-model"
"""Names the model by which the replica knows what a request for an alias asks for."""

_FIELD = re.compile(rb'\ncontent-disposition:[^\r\n]*;[ \t]*name="?model"?[ \t]*[;\r]')
_BOUNDARY = re.compile(r'boundary="?([^";]+)"?')
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class RenamedRequest(NamedTuple):
    """A request's body with another model, and the name it had."""

    body: bytes
    alias: str


def rename_request(body: bytes, content_type: str, model: str) -> RenamedRequest | None:
    """Put a model into the body of a request in place of the name there; None for a body that names none."""
    if content_type.lower().startswith("multipart/form-data"):
        return _rename_form(body, content_type, model)
    try:
        fields = _object.decode(body)
        alias = msgspec.json.decode(fields["model"], type=str)
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError, RecursionError):
        return None
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return RenamedRequest(msgspec.json.encode(fields), alias)


def _rename_form(body: bytes, content_type: str, model: str) -> RenamedRequest | None:
    found = _BOUNDARY.search(content_type)
    if found is None:
        return None
    delimiter, alias = b"\r\n--" + found[1].encode("latin-1", "replace"), ""
    parts = (b"\r\n" + body).split(delimiter)
    for at, part in enumerate(parts):
        head, blank, value = part.partition(b"\r\n\r\n")
        if blank and _FIELD.search(head.lower() + b"\r"):
            alias = value.decode("utf-8", "replace")
            parts[at] = head + blank + model.encode()
    return RenamedRequest(delimiter.join(parts)[2:], alias) if alias else None


class AnswerRenaming:
    """The names in one answer."""

    __slots__ = ("_alias", "_model", "_there")

    def __init__(self, model: str, alias: str) -> None:
        """model: name that the engine writes. alias: name that the client asked for."""
        self._model = msgspec.json.encode(model)
        self._alias = msgspec.json.encode(alias)
        self._there = b'"model":' + self._model

    def whole(self, body: bytes) -> bytes:
        """Return an answer in one piece with the alias; unchanged where it is no object with that model."""
        try:
            fields = _object.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return body
        if bytes(fields.get("model", b"")) != self._model:
            return body
        fields["model"] = msgspec.Raw(self._alias)
        return msgspec.json.encode(fields)

    def events(self, piece: bytes) -> bytes:
        """Return whole events of a stream with the alias."""
        return piece.replace(self._there, b'"model":' + self._alias)
