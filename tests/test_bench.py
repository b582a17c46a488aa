"""The command that measures: what it keeps of rows, what it says of targets, what becomes of one that fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import judges
from bench.page import text_table, write_page
from bench.plots import draw
from bench.results import Results
from bench.row import US, Plot, Row, Run, Series
from bench.runner import discover

PEER = "others 1.0"


def _measured(run: Run) -> Iterator[Series]:
    run.progress("measuring", 0.5)
    (run.directory / "file").write_text("gone afterwards")
    yield Series(US, "work", "ms", tuple(float(value) for value in range(1, 2 + run.runs)))
    yield Series(PEER, "work", "ms", (20.0, 30.0, 40.0), note="a | in a note")
    for x in (10.0, 100.0):
        yield Series(US, "growth", "s", (x, x + 1, x + 2), x=x)
        yield Series(PEER, "growth", "s", (2 * x, 3 * x), x=x)


def _fails(_run: Run) -> Iterator[Series]:
    yield Series(US, "half", "ms", (1.0,))
    raise RuntimeError("the machine fell over")


GROWTH = Plot("growth", "How it grows", "ports", "seconds", ("growth",), log_x=True, log_y=True)
BARS = Plot("work", "Who is how fast", "", "milliseconds", ("work",))
TARGETS = (
    judges.at_most("median 4 ms", "work", 4),
    judges.at_most("p99 1 ms", "work", 1, share=0.99),
    judges.times("within 1.5 times of others", "work", 1.5, than="others"),
    judges.reaches("not below half of others", "work", 0.5, than="others"),
    judges.at_most("what nobody measured", "rest", 1),
)
GOOD = Row("good-row", "Does some work", "By doing it.", _measured, TARGETS, (GROWTH, BARS))
BAD = Row("bad-row", "Does not", "At all.", _fails)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Results]]:
    """Runs the command with these rows; its exit status, and what it kept."""

    def run(*rows: Row, arguments: tuple[str, ...] = ()) -> tuple[int, Results]:
        file = tmp_path / "results.json"
        monkeypatch.setattr(command, "discover", lambda: {row.name: row for row in rows})
        monkeypatch.setattr(
            sys, "argv", ["bench", "--json", str(file), "--page", str(tmp_path / "page.md"), *arguments]
        )
        return command.main(), Results.read(file)

    return run


def test_what_is_measured_is_kept(bench: Callable[..., tuple[int, Results]]) -> None:
    status, kept = bench(GOOD)
    assert status == 0
    result = kept.rows["good-row"]
    assert (result.runs, result.quick, result.error) == (5, False, "")
    assert result.series[0] == Series(US, "work", "ms", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    assert result.series[-1] == Series(PEER, "growth", "s", (200.0, 300.0), x=100.0)
    assert kept.machine["Python"] == sys.version.split()[0]


def test_one_that_fails_does_not_lose_the_others(bench: Callable[..., tuple[int, Results]], tmp_path: Path) -> None:
    status, kept = bench(BAD, GOOD)
    assert status == 1
    assert kept.rows["bad-row"].error == "RuntimeError: the machine fell over"
    assert kept.rows["bad-row"].series[0].what == "half"
    assert not kept.rows["good-row"].error
    assert "the machine fell over" in (tmp_path / "page.md").read_text()


def test_an_interrupt_keeps_what_is_done(bench: Callable[..., tuple[int, Results]]) -> None:
    def interrupted(_run: Run) -> Iterator[Series]:
        yield Series(US, "half", "ms", (1.0,))
        raise KeyboardInterrupt

    status, kept = bench(GOOD, Row("slow-row", "Takes long", "Too long.", interrupted), BAD)
    assert status == 130
    assert set(kept.rows) == {"good-row"}


def test_rows_that_are_not_run_stay(bench: Callable[..., tuple[int, Results]]) -> None:
    bench(GOOD, BAD)
    status, kept = bench(GOOD, BAD, arguments=("good-row", "--runs", "2"))
    assert status == 0
    assert kept.rows["good-row"].runs == 2
    assert kept.rows["bad-row"].error


def test_targets_are_judged_by_figures() -> None:
    series = (Series(US, "work", "ms", (1.0, 2.0, 3.0)), Series(PEER, "work", "ms", (1.0,)))
    verdicts = [target.judge(series) for target in TARGETS]
    assert [verdict.met for verdict in verdicts] == [True, False, False, True, False]
    assert [verdict.text for verdict in verdicts] == ["2 ms", "3 ms", "2 times", "2 of it", "not measured"]


def test_page(bench: Callable[..., tuple[int, Results]], tmp_path: Path) -> None:
    _, kept = bench(GOOD)
    page = (tmp_path / "page.md").read_text()
    assert (
        "| yes (3.5 ms)<br>**no** (6 ms)<br>yes (0.117 times)<br>**no** (0.117 of it)<br>**no** (not measured) |"
        in page
    )
    assert f"| **{US}** | work | 3.5 ms | 2 to 5 |" in page
    assert "a \\| in a note" in page
    assert f"| 3.5 ms | {PEER}: 30 ms (x 8.57) |" in page
    assert "| growth, s | 10 | 100 |\n| --- | --- | --- |\n| cloud firewall | 11 | 101 |\n" in page
    for plot in (GROWTH, BARS):
        assert f"![{plot.title}](page/{plot.name}.svg)" in page
        svg = (tmp_path / "page" / f"{plot.name}.svg").read_text()
        assert f">{PEER}</text>" in svg
        assert len(svg) < 100_000
    assert "reached median 4 ms: 3.5 ms" in text_table(kept, [GOOD])
    write_page(kept, {"good-row": GOOD}, tmp_path / "again.md")
    assert (tmp_path / "again.md").read_text().replace("again/", "page/") == page


def test_ranking_of_two_things(tmp_path: Path) -> None:
    series = [Series(who, what, "ms", (1.0, 2.0)) for who in (US, PEER) for what in ("add", "remove")]
    assert draw(Plot("groups", "Both", "", "milliseconds", ("add", "remove"), log_y=True), series, tmp_path / "g.svg")
    assert not draw(Plot("none", "Nothing", "", "", ("else",)), series, tmp_path / "none.svg")
    svg = (tmp_path / "g.svg").read_text()
    assert all(f">{text}</text>" in svg for text in (US, PEER, "add", "remove"))


def test_every_row_is_well_formed() -> None:
    rows = discover()
    plots = [plot.name for row in rows.values() for plot in row.plots]
    assert len(plots) == len(set(plots))
    for row in rows.values():
        assert row.title
        assert row.about.endswith(".")
        assert all(not target.judge(()).met for target in row.targets), "nothing measured, nothing reached"
