"""A vLLM plugin that writes down which texts an engine makes tokens of, for tests that count.

`install` lays it out as vLLM finds plugins (an entry point beside a module); an engine started with that folder on its
PYTHONPATH appends the length of each text, in characters, to the file its environment names.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FILE = "COUNT_TOKENISED_FILE"


def install(folder: Path) -> None:
    """Makes `folder` one to put on a PYTHONPATH."""
    shutil.copy(__file__, folder / "count_tokenised.py")
    info = folder / "count_tokenised-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: count-tokenised\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\ncount_tokenised = count_tokenised:count\n")


def count() -> None:
    """Called by vLLM in each of its processes."""
    from transformers import PreTrainedTokenizerFast

    encode = PreTrainedTokenizerFast._encode_plus
    if getattr(encode, "counts", False):
        return

    def counted(self: object, text: object, *args: object, **kwargs: object) -> object:
        with Path(os.environ[FILE]).open("a") as lines:
            lines.write(f"{len(str(text))}\n")
        return encode(self, text, *args, **kwargs)

    counted.counts = True  # type: ignore[attr-defined]
    PreTrainedTokenizerFast._encode_plus = counted
