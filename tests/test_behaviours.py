"""Every behaviour has a test that bears its id, or a reason why not; and docs/behaviours.md says so."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import behaviours
import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "behaviours.md"
ALL = tuple(one for section in behaviours.SECTIONS for one in section.behaviours)
FOUND = behaviours.bearers()


def test_the_committed_page_is_what_the_code_prints() -> None:
    assert PAGE.read_text() == behaviours.page(), "docs/behaviours.md is stale: run `make docs`"


@pytest.mark.process
def test_the_command_prints_the_page() -> None:
    done = subprocess.run(
        [sys.executable, "tests/behaviours.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout == PAGE.read_text()


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.id)
def test_a_behaviour_has_tests_or_a_reason(one: behaviours.Behaviour) -> None:
    tests = FOUND.get(one.id, [])
    if one.reason is None:
        assert tests, f"{one.id} ({one.text}) has neither a test that bears its id nor a reason in tests/behaviours.py"
    else:
        assert not tests, f"{one.id} has {tests[0]}: take its reason out of tests/behaviours.py"


def test_what_is_planned_is_about_faults_alone() -> None:
    planned = {section.title for section in behaviours.SECTIONS for one in section.behaviours if one.reason}
    assert planned <= {"Faults", "Truth tables and oracle"}
    others = [one.id for one in ALL if one.reason and one.reason != behaviours.PLANNED]
    assert others == ["T195"], "a reason must say why it cannot be tested; this list is short on purpose"


def test_no_test_bears_an_id_that_is_none() -> None:
    unknown = {id_: tests for id_, tests in FOUND.items() if id_ not in {one.id for one in ALL}}
    assert not unknown


def test_ids_are_given_once_and_in_order() -> None:
    ids = [one.id for one in ALL]
    assert ids == sorted(set(ids))
    assert (ids[0], ids[-1], len(ids)) == ("T001", "T195", 144)
    assert not [text for text, count in Counter(one.text for one in ALL).items() if count > 1]


def test_texts_are_sentences_that_a_table_can_hold() -> None:
    for one in ALL:
        assert one.text[0].isupper() or one.text[0].isdigit(), one.id
        assert one.text.endswith("."), one.id
        assert "|" not in one.text + (one.reason or ""), one.id


def test_a_bearer_is_found_by_each_id_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(
        "def test_T001_T020_two_at_once(net):\n    pass\n\n"
        "@mark\ndef test_of_T001():\n    pass\n\n"
        "def helper_T002():\n    pass\n\n"
        "def test_T0021_RT003_is_no_id():\n    pass\n"
    )
    (tmp_path / "helper.py").write_text("def test_T004_is_in_no_test_file():\n    pass\n")
    name = tmp_path.name
    both, one = f"{name}/test_one.py::test_T001_T020_two_at_once", f"{name}/test_one.py::test_of_T001"
    assert behaviours.bearers(tmp_path) == {"T001": [both, one], "T020": [both]}


def test_of_many_tests_some_are_shown(tmp_path: Path) -> None:
    lines = [f"def test_T001_{n}():\n    pass\n" for n in "abcde"]
    (tmp_path / "test_many.py").write_text("".join(lines))
    row = next(line for line in behaviours.page(tmp_path).splitlines() if line.startswith("| T001 "))
    shown = [f"`{tmp_path.name}/test_many.py::test_T001_{n}`" for n in "abc"]
    assert row.endswith(f" | {'<br>'.join([*shown, 'and 2 more'])} |")
