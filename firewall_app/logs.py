"""How log lines look: one event a line, with fields; as text for people, or as JSON for machines.

    LOG = logs.get(__name__)
    LOG.warning("hypervisor disconnected", dpid=dpid, error=error)

The event is a constant, what varies is in fields; a field that is None is left out.  Fields with one meaning have one
name everywhere: request, revision, dpid, address, account, actor, error.

What a client or a switch has sent can forge no line and no field, and does nothing to a terminal: what is not printable
is escaped.  Passwords in URLs and what follows `Bearer` or `password=` are masked, whoever logs them.  Lines of Ryu, of
eventlet and of other libraries look the same.  Knows nothing but the standard library; what is logged where, and from
which level on, is for Ryu's options (process.py).
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

FORMATS = ("text", "json")
_TO_LOGGING = frozenset({"exc_info", "stack_info", "stacklevel", "extra"})
_BARE = re.compile(r'[^\s"=\\]+')
# As most values are: bare, printable, and without what the pattern of any secret needs.
_PLAIN = re.compile(r"[\w./+-]+", re.ASCII)
_DETAIL = "    "  # before every further line of an event: nothing that is told there looks like a line of its own
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
_SECRETS = re.compile(
    r"(?i)(?P<url>://)\S{0,256}@|(?P<user>[^\s/@:'\"=]{1,64}:)[^\s/@]{1,256}@"  # bounded: lines may be long
    r"|(?P<scheme>\bbearer\s+|\bauthorization['\"]?\s*[:=]\s*['\"]?(?:\w+\s+)?)[^\s'\",]+"
    r"|(?P<name>(?:password|passwd|secret|private_?key|api_?key|token)['\"]?\s*[=:]\s*['\"]?)[^\s'\"&,;]+"
)


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger whose methods take fields."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        fields = {name: kwargs.pop(name) for name in list(kwargs) if name not in _TO_LOGGING}
        return (Said(msg, fields) if fields else msg), kwargs


def get(name: str) -> Log:
    return Log(logging.getLogger(name), {})


class Said:
    """An event with its fields; as a string, what any formatter prints for %(message)s."""

    def __init__(self, event: str, fields: Mapping[str, object]) -> None:
        self.event = event
        self.fields = {name: value for name, value in fields.items() if value is not None}

    def __str__(self) -> str:
        return " ".join((_printable(self.event), *(f"{name}={_value(value)}" for name, value in self.fields.items())))


def masked(text: str) -> str:
    """Without what looks like a secret: a last line of defence, nobody should log one."""
    return _SECRETS.sub(lambda found: f"{found[found.lastgroup or 0]}***", text)


class Text(logging.Formatter):
    """Time, level, logger, event and fields; what has further lines, such as a traceback, has them indented below."""

    def format(self, record: logging.LogRecord) -> str:
        first, *more = self._lines(record)
        return "\n".join((f"{_time(record)} {_head(record)}: {first}", *more))

    def _lines(self, record: logging.LogRecord) -> list[str]:
        if isinstance(record.msg, Said):
            first, more = str(record.msg), []
        else:
            first, *more = [_printable(line) for line in masked(record.getMessage()).splitlines()] or [""]
        more += [_printable(line) for line in _trace(self, record).splitlines()]
        return [first, *(_DETAIL + line for line in more)]


class Journal(Text):
    """As `Text`, for systemd's journal and for syslog, which know the time themselves."""

    prefixed = True

    def format(self, record: logging.LogRecord) -> str:
        first, *more = self._lines(record)
        lines = (f"{_head(record)}: {first}", *more)
        return "\n".join(_priority(record) + line for line in lines) if self.prefixed else "\n".join(lines)


class Syslog(Journal):
    prefixed = False


class Json(logging.Formatter):
    """One object a line: time, level, logger, event, the fields, and `traceback` when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        said = record.msg if isinstance(record.msg, Said) else Said(record.getMessage(), {})
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": masked(said.event),
        }
        for name, value in said.fields.items():
            line.setdefault(name, _json(value))
        if trace := _trace(self, record):
            line["traceback"] = trace
        return json.dumps(line).replace("\x7f", "\\u007f")


class JsonJournal(Json):
    """As `Json`, for systemd's journal: a priority goes before each line, and systemd takes it away."""

    def format(self, record: logging.LogRecord) -> str:
        return _priority(record) + super().format(record)


def form(handler: logging.Handler, kind: str) -> logging.Formatter:
    """What fits a handler; `kind` is one of FORMATS."""
    if _is_journal(handler):
        return JsonJournal() if kind == "json" else Journal()
    if kind == "json":
        return Json()
    return Syslog() if isinstance(handler, logging.handlers.SysLogHandler) else Text()


def _is_journal(handler: logging.Handler) -> bool:
    """Whether what a handler writes goes straight to systemd's journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        found = os.fstat(handler.stream.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03}Z"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _head(record: logging.LogRecord) -> str:
    return f"{record.levelname:7} {_printable(record.name)}"


def _priority(record: logging.LogRecord) -> str:
    return f"<{next(number for level, number in _PRIORITIES if record.levelno >= level)}>"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return masked("\n".join(parts))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    if type(value) is int:
        return str(value)
    text = masked(",".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
    if text.isprintable() and _BARE.fullmatch(text):
        return text
    return '"' + _printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _json(value: object) -> Any:
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value if isinstance(value, bool | int | float) else masked(str(value))


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
