"""What a switch should hold as the sum of units, and the fewest changes towards it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from firewall_app.pipeline.diff import Desired, Difference, difference


@dataclass(frozen=True)
class Part:
    """A unit for these tests: it wants these keys to be its text."""

    keys: tuple[str, ...]
    text: str


class Counting:
    """Renders parts and counts how often."""

    def __init__(self) -> None:
        self.rendered: list[Part] = []

    def __call__(self, part: Part) -> Iterator[tuple[str, str]]:
        self.rendered.append(part)
        return ((key, part.text) for key in part.keys)


def rule(number: int) -> tuple[str, str]:
    return "rule", str(number)


def wanted(desired: Desired[str, str]) -> dict[str, str | None]:
    return {key: desired.get(key) for key in sorted(desired.keys())}


def test_units_add_up() -> None:
    desired = Desired(Counting())
    assert desired.update({rule(1): Part(("a", "b"), "one"), rule(2): Part(("c",), "two")}) == {"a", "b", "c"}
    assert wanted(desired) == {"a": "one", "b": "one", "c": "two"}
    assert len(desired) == 3
    assert desired.get("d") is None
    assert desired.unit(rule(1)) == Part(("a", "b"), "one")
    assert desired.unit(rule(3)) is None
    assert set(desired.units) == {rule(1), rule(2)}


def test_a_unit_that_did_not_change_is_not_rendered_again() -> None:
    render = Counting()
    desired = Desired(render)
    stays, goes = Part(("a",), "one"), Part(("b",), "two")
    desired.update({rule(1): stays, rule(2): goes})
    render.rendered.clear()
    assert desired.update({rule(1): Part(("a",), "one"), rule(3): Part(("c",), "three")}) == {"b", "c"}
    assert render.rendered == [Part(("c",), "three")]
    assert desired.change({rule(1): stays}) == set()
    assert desired.change({rule(1): Part(("a", "d"), "one")}) == {"a", "d"}
    assert wanted(desired) == {"a": "one", "c": "three", "d": "one"}


def test_of_two_rules_that_want_one_flow_the_oldest_is_in_force() -> None:
    """By number: rule 9 is older than rule 10, though its text comes later.  When it goes, the next takes its place."""
    desired = Desired(Counting())
    desired.update({rule(10): Part(("a",), "ten"), rule(9): Part(("a", "b"), "nine")})
    assert wanted(desired) == {"a": "nine", "b": "nine"}
    actual = {"a": "nine", "b": "nine"}
    keys = desired.update({rule(10): Part(("a",), "ten")})
    assert difference(desired, actual, keys) == Difference(("b",), (("a", "ten"),), (("a", "nine", "ten"),))
    assert wanted(desired) == {"a": "ten"}


def test_a_difference_says_what_goes_what_comes_and_what_is_overwritten() -> None:
    desired = Desired(Counting())
    desired.update(
        {rule(1): Part(("new",), "one"), rule(2): Part(("other",), "two"), rule(3): Part(("same",), "three")}
    )
    change = difference(desired, {"old": "x", "other": "x", "same": "three"})
    assert change.delete == ("old",)
    assert set(change.put) == {("new", "one"), ("other", "two")}
    assert change.replaced == (("other", "x", "two"),)
    assert change
    assert not difference(desired, {"new": "one", "other": "two", "same": "three"})


def test_only_the_given_keys_are_looked_at() -> None:
    desired = Desired(Counting())
    desired.update({rule(1): Part(("a", "b"), "one")})
    assert difference(desired, {"old": "x"}, ["a"]) == Difference((), (("a", "one"),), ())
    assert difference(desired, {"old": "x"}, ["old", "gone"]) == Difference(("old",), (), ())


def test_something_is_taken_away_when_a_flow_that_judges_goes_or_changes() -> None:
    def judges(key: str) -> bool:
        return key == "judge"

    def no_less(key: str, old: str, new: str) -> bool:
        return key == "judge" and set(old) <= set(new)

    def takes_away(*change: object) -> bool:
        return Difference(*change).takes_away(judges, no_less)

    assert takes_away(("judge",), (), ())
    assert takes_away(("other",), (("judge", "x"),), (("judge", "y", "x"),))
    assert not takes_away(("other",), (("judge", "xy"),), (("judge", "y", "xy"),))
    assert not takes_away(("other",), (("other2", "x"),), (("other2", "y", "x"),))
    assert not takes_away((), (("judge", "x"),), ()), "a flow that comes takes nothing away"


PARTS = st.dictionaries(
    st.integers(1, 12).map(rule),
    st.builds(
        Part, st.lists(st.sampled_from("abcdef"), max_size=3, unique=True).map(tuple), st.sampled_from(("x", "y", "z"))
    ),
    max_size=6,
)


@given(st.lists(PARTS, min_size=1, max_size=4), st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from("xyz")))
def test_it_depends_on_the_last_units_alone(steps: list[dict[tuple[str, str], Part]], foreign: dict[str, str]) -> None:
    """And what `update` returns is enough to look at, for a switch that followed so far."""
    desired: Desired[str, str] = Desired(Counting())
    actual: dict[str, str] = {}
    for units in steps:
        change = difference(desired, actual, desired.update(units))
        for key in change.delete:
            del actual[key]
        actual.update(change.put)
    expected: dict[str, str] = {}
    for (_, number), part in sorted(steps[-1].items(), key=lambda item: -int(item[0][1])):
        expected.update(dict.fromkeys(part.keys, part.text))
        assert desired.unit(rule(int(number))) == part
    assert wanted(desired) == expected
    assert actual == expected
    assert len(desired) == len(expected)
    change = difference(desired, foreign)
    kept = {key: text for key, text in foreign.items() if key not in change.delete} | dict(change.put)
    assert kept == expected
