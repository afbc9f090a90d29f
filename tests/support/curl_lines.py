"""The curl commands of Markdown pages, taken apart."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple


class Curl(NamedTuple):
    """One command line of a page."""

    where: str
    method: str
    url: str
    headers: dict[str, str]
    body: str | None


def curl_lines(page: Path) -> list[Curl]:
    """The curl commands of a page's blocks, continued lines joined, pipes cut off."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return [parsed(page, line) for line in lines if re.match(r"(\$ )?curl ", line)]


def parsed(page: Path, line: str) -> Curl:
    """A command line with curl's options -H, -d and -X; other options are passed over."""
    words = shlex.split(line.removeprefix("$ "), comments=True)
    words = words[1 : words.index("|") if "|" in words else None]
    headers, url, body, method = {}, "", None, ""
    while words:
        word = words.pop(0)
        if word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name.lower()] = value
        elif word == "-d":
            body = words.pop(0)
        elif word == "-X":
            method = words.pop(0)
        elif not word.startswith("-"):
            url = word if "://" in word else f"http://{word}"
    return Curl(f"{page.name}: {line}", method or ("GET" if body is None else "POST"), url, headers, body)
