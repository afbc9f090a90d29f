"""Files that are written beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from pointsman.router.process.readiness import Readiness
from pointsman.router.process.saving import Saving, to_its_end


class File:
    """A file that can be set aside, or cannot."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses

    def __repr__(self) -> str:
        return "File()"

    def set_aside(self) -> Path:
        if self.refuses:
            raise OSError(13, "not yours")
        return Path("/x/file.bad")


def saving(file: File | None = None) -> tuple[Saving, Readiness]:
    readiness = Readiness()
    return Saving("words", file or File(), loaded="words file", saved="saving words", readiness=readiness), readiness


async def test_work_ends_before_who_waits_for_it_is_cancelled() -> None:
    """Whatever is written next comes after it."""
    begun, goes_on, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        assert goes_on.wait(10)
        done.append(True)

    waiting = asyncio.create_task(to_its_end(work))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    waiting.cancel()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done == [True]
    assert await to_its_end(max, 1, 2) == 2


async def test_a_disk_that_refuses_is_counted_and_degrades_readiness_until_it_takes_something() -> None:
    """At once, or beside the loop; an error of the program is no refusal."""
    one, readiness = saving()

    def refuse(text: str) -> None:
        raise OSError(28, text)

    assert not await one.write(refuse, "full")
    assert not one.write_now(refuse, "full")
    assert one.errors == 2
    assert readiness.impaired() == ["saving words: not saved, tried again: [Errno 28] full"]
    assert await one.write(lambda text: None, "room")
    assert readiness.impaired() == []
    with pytest.raises(ZeroDivisionError):
        one.write_now(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("refuses", "kept"), [(False, "it is kept as /x/file.bad"), (True, "it cannot be set aside: not yours")]
)
def test_a_file_that_cannot_be_read_is_set_aside_and_said(refuses: bool, kept: str) -> None:
    """With the reason."""
    one, readiness = saving(File(refuses))
    one.set_aside(ValueError("no JSON"))
    assert one.set_aside_files == 1
    assert readiness.impaired() == [f"words file: started without what was saved; {kept}: no JSON"]
