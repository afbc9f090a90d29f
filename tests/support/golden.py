"""Golden files: what something gave once, read by a person, and must give again.

`REWRITE_GOLDEN=1 pytest ...` writes them anew; the diff is the review.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

HAPROXY = Path(__file__).parent.parent / "haproxy" / "golden"


def rewriting() -> bool:
    return os.environ.get("REWRITE_GOLDEN") == "1"


def assert_golden(path: Path, text: str) -> None:
    """`text` is what `path` holds, or becomes it."""
    if rewriting():
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; REWRITE_GOLDEN=1 rewrites it"


def load_cases(path: Path) -> dict[str, dict[str, Any]]:
    """Cases by name."""
    cases: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return cases


def body_of(case: dict[str, Any]) -> bytes:
    """A body written as `[text, times, text, times, ...]`, one character a byte."""
    parts = case["body"]
    return b"".join(text.encode("latin-1") * times for text, times in zip(parts[::2], parts[1::2], strict=True))
