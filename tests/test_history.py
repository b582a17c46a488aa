"""Timelines: which states a store descends from, also against a model that keeps every state by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from firewall_app.history import History, Point, beginning


def test_a_store_knows_its_own_states_and_no_others():
    history = beginning(7).after(Point(7, 1)).after(Point(8, 2)).after(Point(8, 3))
    assert history.starts == (Point(7, 0), Point(8, 2))
    assert [history.at(number).timeline for number in range(4)] == [7, 7, 8, 8]
    for known in (Point(7, 0), Point(7, 1), Point(8, 2), Point(8, 3), Point(99, 0)):
        assert history.knows(known)
    for other in (Point(7, 2), Point(8, 1), Point(8, 4), Point(9, 2)):
        assert not history.knows(other)


def test_what_was_confirmed_is_known_up_to_its_revision():
    history = History(3, (Point(7, 0),)).superseding(Point(9, 5)).superseding(Point(9, 2))
    assert history.knows(Point(9, 5))
    assert not history.knows(Point(9, 6))
    assert history.point == Point(7, 3)


def test_T173_a_restored_backup_never_knows_what_it_lost_however_far_it_goes():
    kept = beginning(7).after(Point(7, 1))
    lost = kept.after(Point(7, 2)).after(Point(7, 3))
    restored = kept
    for revision in range(2, 30):
        restored = restored.after(Point(8, revision))
        assert not restored.knows(Point(7, 2))
        assert not restored.knows(lost.point)
        assert restored.knows(Point(7, 1))


@given(st.lists(st.sampled_from(["commit", "restart", "backup", "restore"]), max_size=30))
def test_T173_a_store_knows_exactly_the_states_that_led_to_it(steps: list[str]):
    """The model keeps the set of all states before; the history must tell the same with its few starts."""
    history, states = beginning(1), {Point(1, 0)}
    everything, saved, timeline = set(states), (history, set(states)), 2
    for step in steps:
        if step == "commit":
            point = Point(timeline, history.revision + 1)
            history = history.after(point)
            states = states | {point}
            everything |= states
        elif step == "backup":
            saved = history, states
        else:
            timeline += 1
            if step == "restore":
                history, states = saved
        assert {point for point in everything if history.knows(point)} == states
