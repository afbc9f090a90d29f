"""Sessions' pins on disk: a file that grows by what changed, and is written anew once most of it is outdated.

`PinJournal` owns one file beside the state file. It is a row of frames, each with its length and checksum and some pins
in msgpack; of two pins of one session the later one counts. Frames are appended without waiting for the disk: they
outlive this process however it ends, and a machine that loses power may lose the last ones. A frame that is cut or
damaged ends what is read. Writing anew is atomic (write, sync, rename). When to write is the caller's to say.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

MAX_JOURNAL_BYTES = 256 * 1024 * 1024
"""200,000 pins at their longest take 75 MB, and as much again before the file is written anew. A longer file is not
read."""

FRAME_PINS = 4096
"""Pins of one frame, at most: a reader never holds more than a megabyte or two of one undecoded."""

_FRAME = struct.Struct("<II")
"""Bytes of the pins that follow, and their CRC-32."""


class SavedPin(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a session was, and when it was last seen."""

    session: str
    replica: str
    moves: int
    seen_ms: int
    """Milliseconds since 1970: the clock of the process that reads it is another."""


_decoder = msgspec.msgpack.Decoder(list[SavedPin])


class PinJournal:
    """Reads, appends to and rewrites the file. Every method raises OSError when the disk does not take or give it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"PinJournal({str(self._path)!r})"

    def load(self) -> tuple[list[SavedPin], bool]:
        """All pins in the order they were written, and whether the file was read to its end; none without a file."""
        try:
            with self._path.open("rb") as file:
                raw = file.read(MAX_JOURNAL_BYTES + 1)
        except FileNotFoundError:
            return [], True
        pins: list[SavedPin] = []
        if len(raw) > MAX_JOURNAL_BYTES:
            return pins, False
        at = 0
        while at < len(raw):
            begin = at + _FRAME.size
            if begin > len(raw):
                return pins, False
            length, checksum = _FRAME.unpack_from(raw, at)
            payload = raw[begin : begin + length]
            if len(payload) < length or zlib.crc32(payload) != checksum:
                return pins, False
            try:
                pins += _decoder.decode(payload)
            except msgspec.MsgspecError:
                return pins, False
            at = begin + length
        return pins, True

    def append(self, pins: Sequence[SavedPin]) -> None:
        """Adds pins that changed."""
        with self._open(self._path, os.O_APPEND) as file:
            file.write(_frames(pins))

    def rewrite(self, pins: Sequence[SavedPin]) -> None:
        """Replaces the file by these pins."""
        partial = self._path.with_name(self._path.name + ".partial")
        with self._open(partial, os.O_TRUNC) as file:
            file.write(_frames(pins))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)

    @staticmethod
    def _open(path: Path, flags: int) -> BinaryIO:
        # Session keys are clients' own.
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "wb")


def _frames(pins: Sequence[SavedPin]) -> bytes:
    frames = []
    for at in range(0, len(pins), FRAME_PINS):
        payload = msgspec.msgpack.encode(pins[at : at + FRAME_PINS])
        frames += [_FRAME.pack(len(payload), zlib.crc32(payload)), payload]
    return b"".join(frames)
