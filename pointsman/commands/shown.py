"""Numbers, moments and names as tables show them: with their unit, rounded to what a person reads."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo

ABSENT = "-"
"""In place of a value that is not known."""

ELLIPSIS = "…"

Number = int | float | None


def whole(value: Number) -> str:
    """A count: `38,211`."""
    return ABSENT if value is None else f"{value:,.0f}"


def short(value: Number) -> str:
    """A count in little room: `950`, `9.5k`, `38k`, `1.2M`."""
    if value is None:
        return ABSENT
    size = float(value)
    for unit in ("", "k", "M", "G"):
        if abs(size) < 999.5 or unit == "G":
            return f"{size:.1f}{unit}" if unit and abs(size) < 9.95 else f"{size:,.0f}{unit}"
        size /= 1000
    raise AssertionError("unreachable")


def ms(value: Number) -> str:
    """A duration given in milliseconds: `4.2 ms`, `58 ms`, `12.4 s`."""
    if value is None:
        return ABSENT
    if abs(value) >= 10_000:
        return f"{value / 1000:,.1f} s"
    exact = 0.05 <= abs(value) < 9.95 and value != int(value)
    return f"{value:.1f} ms" if exact else f"{value:,.0f} ms"


def share(value: Number) -> str:
    """A share of one, in percent: `94.4 %`, `100 %`."""
    if value is None:
        return ABSENT
    percent = 100 * value
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


def rate(value: Number) -> str:
    """Something per second: `0.4`, `8.1`, `812`."""
    if value is None:
        return ABSENT
    return f"{value:.1f}" if 0 < abs(value) < 9.95 else f"{value:,.0f}"


def span(seconds: Number) -> str:
    """A duration in the largest unit that fits: `4 s`, `12 min`, `3 h`, `9 d`."""
    if seconds is None:
        return ABSENT
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def parse_moment(text: str | None) -> datetime | None:
    """A time in RFC 3339; None where there is none, or another text."""
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def since(text: str | None, now: datetime) -> str:
    """Time that has passed since a time in RFC 3339."""
    moment = parse_moment(text)
    return ABSENT if moment is None else span((now - moment).total_seconds())


def clock_time(text: str | None, zone: tzinfo | None, *, to_ms: bool = True) -> str:
    """The time of day of a time in RFC 3339.

    zone: None for that of this machine.
    """
    moment = parse_moment(text)
    if moment is None:
        return ABSENT
    shown = moment.astimezone(zone).isoformat(timespec="milliseconds" if to_ms else "seconds")
    return shown[11 : 23 if to_ms else 19]


def day_and_time(text: str | None, zone: tzinfo | None) -> str:
    """Day, time of day and zone of a time in RFC 3339: `2026-11-30 12:04:31 +01:00`."""
    moment = parse_moment(text)
    if moment is None:
        return ABSENT
    return moment.astimezone(zone).isoformat(sep=" ", timespec="seconds").replace("+", " +")


def now_utc() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


def fitted(text: str | None, width: int) -> str:
    """A name in `width` characters: of a longer one the beginning and the end, which tell names apart."""
    if not text:
        return ABSENT
    if len(text) <= width:
        return text
    end = (width - 1) // 3
    return f"{text[: width - 1 - end]}{ELLIPSIS}{text[len(text) - end :]}"


def flowed(parts: Iterable[str], width: int, gap: str = "   ") -> list[str]:
    """Lines of parts side by side: a part that does not fit begins the next line, and none is broken."""
    lines: list[str] = []
    for part in filter(None, parts):
        if lines and len(lines[-1]) + len(gap) + len(part) <= width:
            lines[-1] += gap + part
        else:
            lines.append(part)
    return lines


def state_and_why(state: str, why: str | None) -> str:
    """A state and its reason, without the state's name twice: `ejected after 7 failed answers`."""
    if not why:
        return state
    return f"{state}{why[len(state) :]}" if why.lower().startswith(state) else f"{state}: {why}"
