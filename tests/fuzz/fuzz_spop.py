"""Coverage-guided fuzzing of the SPOP codec: events or ProtocolError, nothing else, however the bytes are cut.

    make fuzz                                 for a minute
    make fuzz ARGS='-max_total_time=600'      for ten; any flag of libFuzzer will do

which installs atheris (35 MB, Linux only, and so no development dependency) and runs

    .venv/bin/python tests/fuzz/fuzz_spop.py -max_total_time=60

Inputs that reach further are kept in `build/fuzz/spop/`. One that breaks the property is written to the working
directory, and replayed by naming it as the only argument. The seeds are the frames captured from HAProxy.

The first two bytes of an input say where the rest is cut in two; a HELLO goes ahead of it if the first is even.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
CORPUS = ROOT / "build" / "fuzz" / "spop"

with atheris.instrument_imports(include=["pointsman.haproxy.spop"]):
    import spop_peer
    from spop_property import check_any_bytes


def fuzz_one(data: bytes) -> None:
    """The property for one input."""
    cut = int.from_bytes(data[:2], "big")
    rest = data[2:]
    if data and data[0] % 2 == 0:
        rest = spop_peer.hello() + rest
    check_any_bytes(rest, cut)


def write_seeds(directory: Path) -> None:
    """One file a captured frame, and all of them behind one another."""
    directory.mkdir(parents=True, exist_ok=True)
    frames = {path.stem: spop_peer.golden(path.stem) for path in sorted(spop_peer.GOLDEN.glob("*.hex"))}
    frames["everything"] = b"".join(frames.values())
    for name, frame in frames.items():
        head = b"\x01\x40" if "hello" in name else b"\x00\x40"
        (directory / name).write_bytes(head + frame)


def main() -> None:
    """Fuzz with libFuzzer's flags from the command line; a corpus directory is added unless paths are given."""
    arguments = list(sys.argv)
    if not any(not argument.startswith("-") for argument in arguments[1:]):
        write_seeds(CORPUS)
        arguments.append(str(CORPUS))
    atheris.Setup(arguments, fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
