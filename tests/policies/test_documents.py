"""The pages and example files say what the code does."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from candidates import make_candidates, make_context, make_features
from pages import run_page
from plain_words import complaint

from pointsman.policies.policy import Policy
from pointsman.policies.registry import KEY_FALLBACK, POLICIES, build_policy, describe

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "policies"
EXAMPLES = ROOT / "deploy" / "policies"
HOW_TO = ROOT / "docs" / "writing-a-policy.md"

HEADINGS = ["Rule and formula", "When to use", "Needs", "Config", "Reasons", "Example"]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the table under a heading, cells stripped, without its header."""
    section = page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


@pytest.fixture(params=sorted(POLICIES))
def name(request: pytest.FixtureRequest) -> str:
    policy: str = request.param
    return policy


@pytest.fixture
def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def test_every_policy_has_a_page_and_an_example() -> None:
    """One page and one file each, and none of a policy that is not there."""
    assert {path.stem for path in PAGES.glob("*.md")} == set(POLICIES)
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == set(POLICIES)


def test_pages_have_the_same_headings(name: str, page: str) -> None:
    """Whoever has read one page finds their way in all."""
    assert page.startswith(f"# `{name}`\n")
    assert re.findall(r"^## (.*)$", page, flags=re.MULTILINE) == HEADINGS


def test_config_table_is_the_configuration(name: str, page: str) -> None:
    """Each key with its default and the meaning the schema gives it."""
    schema = describe(POLICIES)[name]["schema"]["$defs"][POLICIES[name].Config.__name__]
    described = build_policy({"policy": name}, POLICIES).describe()
    expected = []
    for key, value in schema["properties"].items():
        default = {"policy": described[key]["policy"]} if key == KEY_FALLBACK else described[key]
        meaning = value.get("description") or next(one["description"] for one in value["anyOf"] if "description" in one)
        expected.append([f"`{key}`", f"`{json.dumps(default)}`", meaning])
    assert table(page, "Config") == expected


def test_every_key_has_a_meaning_that_stands_alone(name: str) -> None:
    """The schemas of `GET /v1/policies` describe each key of each struct, nested ones too."""
    schema = describe(POLICIES)[name]["schema"]
    for definition in schema["$defs"].values():
        for key, value in definition.get("properties", {}).items():
            texts = [value.get("description", ""), *(one.get("description", "") for one in value.get("anyOf", ()))]
            assert not (wrong := complaint(" ".join(texts).strip())), f"{name}.{key}: {wrong}"


def reasons_given(policy: Policy) -> set[str]:
    """The reasons a policy gives in all sorts of situations."""
    fleets = [
        make_candidates(a=0, b=0, c=0, pin="a"),
        make_candidates(a=99, b=0, c=0, pin="a"),
        make_candidates(a=99, b=0, c=0, pin="left"),
        make_candidates(a=0, b=99, c=99),
        make_candidates(a=0, b=0, c=0, resident={"a": 900}),
        make_candidates(a=0, b=0, c=0, resident={"a": 900}, keeper="a", home_tokens=900),
        make_candidates(a=0, b=0, c=0, keeper="a", kv={"waiting": [90_000, 0, 0]}),
        make_candidates(a=99, b=0, c=0, adapter=["a"], adapter_room={"c": 0}),
        make_candidates(a=99, b=0, c=0, adapter=["b"]),
    ]
    return {
        str(place.reason)
        for fleet in fleets
        for number in range(30)
        for place in policy.rank(make_features(f"s{number}"), fleet, make_context(number))
    }


def test_reasons_table_is_what_the_policy_gives(name: str, page: str) -> None:
    """The reasons on the page are those the policy gives of itself, no more and no fewer."""
    document: dict[str, Any] = {"policy": name}
    if KEY_FALLBACK in POLICIES[name].Config.__struct_fields__:
        document[KEY_FALLBACK] = {"policy": "round_robin"}
    given = reasons_given(build_policy(document, POLICIES)) - ({"round-robin"} if len(document) > 1 else set())
    listed = {cells[0].strip("`") for cells in table(page, "Reasons")} - {"the fallback's"}
    assert listed == given


def test_example_file_builds_and_is_the_one_on_the_page(name: str, page: str) -> None:
    """The file under deploy/ loads, and the page shows the same document."""
    document = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    assert build_policy(document, POLICIES).name == name
    assert [yaml.safe_load(block) for block in blocks(page, "yaml")] == [document]


def test_writing_a_policy_names_what_it_writes() -> None:
    """The entry point and the document of the how-to fit the policy that its code defines."""
    text = HOW_TO.read_text()
    [entry_points] = [tomllib.loads(block)["project"]["entry-points"] for block in blocks(text, "toml")]
    assert entry_points == {"pointsman.policies": {"pack": "fleet_extras.pack:Pack"}}
    [document] = [yaml.safe_load(block) for block in blocks(text, "yaml")]
    built = build_policy(document, {**POLICIES, "pack": run_page(HOW_TO)["Pack"]})
    described: Any = built.describe()
    assert described["fallback"]["full_at"] == 12
    assert msgspec.json.encode(described)


def test_the_policy_of_the_how_to_conforms() -> None:
    """What the page teaches keeps the promises it lists."""
    pack = build_policy({"policy": "pack", "full_at": 3}, {**POLICIES, "pack": run_page(HOW_TO)["Pack"]})
    for loads in ([0], [3, 3], [2, 3, 1], [9, 2, 2, 2, 0]):
        fleet = make_candidates(loads)
        longest = pack.rank(make_features(), fleet, make_context(limit=9))
        assert sorted(place.slot for place in longest) == fleet.slots.tolist()
        assert [place.score for place in longest] == sorted(place.score for place in longest)
        assert pack.rank(make_features(), fleet, make_context(limit=1)) == longest[:1]
        assert fleet.in_flight.tolist() == loads
