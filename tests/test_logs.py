"""How log lines look, and that nobody can forge one or read a secret in one."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall_app import logs

NAME = "test.logs"


@dataclass
class Written:
    """A logger whose lines are kept, in each format."""

    log: logs.Log
    streams: dict[str, io.StringIO]

    def __getitem__(self, kind: str) -> str:
        return self.streams[kind].getvalue()

    @property
    def json(self) -> dict[str, object]:
        (line,) = self["json"].splitlines()
        found: dict[str, object] = json.loads(line)
        return found

    @property
    def text(self) -> str:
        """Without time, level and logger."""
        return re.sub(rf"^\S+Z (INFO   |WARNING|ERROR  ) {re.escape(NAME)}: ", "", self["text"]).removesuffix("\n")


def written() -> Written:
    logger = logging.Logger(NAME)
    formats = {"text": logs.Text(), "json": logs.Json(), "journal": logs.Journal(), "syslog": logs.Syslog()}
    found = Written(logs.Log(logger, {}), {kind: io.StringIO() for kind in formats})
    for kind, formatter in formats.items():
        handler = logging.StreamHandler(found.streams[kind])
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return found


@pytest.fixture
def out() -> Written:
    return written()


def test_an_event_and_its_fields(out: Written) -> None:
    out.log.warning("hypervisor gone", dpid="01", revision=7, ok=True, names=["a", "b"], words='say "hi"', none=None)
    assert out.text == 'hypervisor gone dpid=01 revision=7 ok=true names=a,b words="say \\"hi\\""'
    found = out.json
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(found.pop("time")))
    assert found == {
        "level": "warning", "logger": NAME, "event": "hypervisor gone", "dpid": "01", "revision": 7, "ok": True,
        "names": ["a", "b"], "words": 'say "hi"',
    }  # fmt: skip
    assert out["journal"] == f"<4>WARNING {NAME}: {out.text}\n"
    assert out["syslog"] == f"WARNING {NAME}: {out.text}\n"


def test_lines_of_other_libraries_look_the_same(out: Written) -> None:
    out.log.logger.error("hub: uncaught exception: %s", "Traceback\n  in x")
    assert out.text == "hub: uncaught exception: Traceback\n      in x"
    assert out.json["event"] == "hub: uncaught exception: Traceback\n  in x"
    assert out["journal"] == f"<3>ERROR   {NAME}: hub: uncaught exception: Traceback\n<3>      in x\n"


def test_a_traceback_is_a_field_in_json_and_indented_in_text(out: Written) -> None:
    try:
        raise ValueError("first\n2026-01-01T00:00:00.000Z INFO    forged: line\x1b[2J")
    except ValueError:
        out.log.exception("failed", dpid="01")
    assert out.json["event"] == "failed"
    assert "Traceback" in str(out.json["traceback"])
    first, *more = out["text"].splitlines()
    assert first.endswith("failed dpid=01")
    assert len(more) > 3
    assert all(line.startswith("    ") for line in more)
    assert "\x1b" not in out["text"]


def test_a_field_cannot_take_the_place_of_what_every_line_has(out: Written) -> None:
    out.log.info("said", time="then", event="other", logger="me")
    assert (out.json["event"], out.json["logger"]) == ("said", NAME)
    assert out.json["time"] != "then"


def test_any_other_formatter_prints_the_fields_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logs.get("test.other").info("seen", dpid="01")
    assert caplog.messages == ["seen dpid=01"]


def test_percent_signs_are_nobodys_business(out: Written) -> None:
    out.log.info("100 %s sure", path="/%s%d%")
    assert out.text == "100 %s sure path=/%s%d%"


@given(st.text(), st.text(), st.sampled_from(("event", "field", "foreign", "list")))
def test_whatever_is_told_stays_in_its_field(told: str, other: str, where: str) -> None:
    out = written()
    match where:
        case "event":
            out.log.info(told, other=other)
        case "field":
            out.log.info("said", told=told, other=other)
        case "list":
            out.log.info("said", told=[told, told], other=other)
        case "foreign":
            out.log.logger.info("said %s", told)
    first, *more = out["text"].splitlines()
    assert all(line.startswith("    ") for line in more)
    assert where == "foreign" or not more
    for kind in ("text", "journal", "syslog"):
        assert all(line.isprintable() for line in out[kind].split("\n")), out[kind]
    assert out["json"].isascii()
    found = out.json
    if where == "field" and logs.masked(told) == told:
        assert found["told"] == told
        assert set(found) == {"time", "level", "logger", "event", "told", "other"}
        # What is told as text can be read back by a plain reader of key=value: no value ends before its end.
        said = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s"]+)', first)
        assert [name for name, _ in said] == ["told", "other"]


@pytest.mark.parametrize(
    "told",
    [
        "postgresql://firewall:HUSH@db.example.org/fw",
        "postgresql://firewall:HUSH/@HUSH@db/fw",
        "GET http://me:HUSH@host/path",
        "CONNECT me:HUSH@host:443",
        "host=db user=x password=HUSH dbname=y",
        "postgresql://db/fw?user=x&password=HUSH",
        "Authorization: Bearer HUSH",
        "{'authorization': 'Bearer HUSH'}",
        "Authorization: Basic HUSH",
        "bearer HUSH",
        '{"token": "HUSH"}',
        "private_key=HUSH",
    ],
)
def test_what_looks_like_a_secret_is_masked_wherever_it_stands(told: str) -> None:
    for place in range(4):
        out = written()
        try:
            match place:
                case 0:
                    out.log.info("said", told=told)
                case 1:
                    out.log.info(told)
                case 2:
                    out.log.logger.info("said %s", told)
                case 3:
                    raise ValueError(told)
        except ValueError:
            out.log.exception("failed")
        for kind in out.streams:
            assert out[kind]
            assert "HUSH" not in out[kind]


@pytest.mark.parametrize("part", ["://", "a:", "token=", "bearer ", "authorization: ", "@", ":a@"])
def test_masking_takes_no_longer_for_what_is_made_to_take_long(part: str) -> None:
    text = part * (8192 // len(part))
    assert len(logs.masked(text)) <= 4 * len(text)  # in time: see the limit on each test


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[logging.StreamHandler[io.TextIOWrapper]]:
    with (tmp_path / "stderr").open("w") as stream:
        yield logging.StreamHandler(stream)


def test_the_journal_is_known_by_its_stream(handler: logging.StreamHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.fstat(handler.stream.fileno())
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert type(logs.form(handler, "text")) is logs.Text
    assert type(logs.form(handler, "json")) is logs.Json
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")  # stderr was sent elsewhere
    assert type(logs.form(handler, "text")) is logs.Text
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    assert type(logs.form(handler, "text")) is logs.Journal
    assert type(logs.form(handler, "json")) is logs.JsonJournal


def test_syslog_has_a_time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    handler = logging.handlers.SysLogHandler(("127.0.0.1", 9))
    assert type(logs.form(handler, "text")) is logs.Syslog
    handler.close()
