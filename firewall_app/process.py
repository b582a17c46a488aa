"""The process: its log, as Ryu's options have it; what systemd is told; and its end, which nothing can hold up.

`app.py` imports this before anything else, since what is imported logs.  Knows nothing of what the program does.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import eventlet
from eventlet import patcher
from eventlet.hubs import get_hub, trampoline
from ryu import cfg

from . import logs, memory, settings, systemd

LOG = logs.get(__name__)
END_SECONDS = 4.7  # after a signal the process is gone, whatever holds it
LAST_WORDS = 0.2  # seconds for the log to take the line that says what did
NAMED_CALLS = 10  # in that line
STATUS_SECONDS = 5.0  # between two lines of `systemctl status`
_STORED = ("sqlalchemy", "psycopg")  # at their lower levels they log what people store
_CHATTY = ("alembic", "ryu.base.app_manager")

# Not eventlet's: the thread that ends the process must not wait for the loop, which may be what hangs.
_os: Any = patcher.original("os")
_threading: Any = patcher.original("threading")


# ---- the log


def set_up_log() -> None:
    """Gives the handlers that Ryu has set up their format.  With a --log-config-file format and levels are its own."""
    conf, root = cfg.CONF, logging.getLogger()
    kind = settings.log_format(conf)
    chosen = conf.verbose or conf.default_log_level is not None or bool(conf.log_config_file)
    for name in _STORED:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if chosen else logging.WARNING)
    if not chosen:
        root.setLevel(logging.INFO)
    if not conf.log_config_file:
        # Of each line Python finds out which code said it, in what thread and process; ours tell none of it (Logging
        # HOWTO, "Optimization").
        logging._srcfile = None
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        for handler in root.handlers:
            handler.setFormatter(logs.form(handler, kind))


def log_all_faults() -> None:
    """What Python and eventlet print when nobody has caught it goes to the log, too."""
    hub = get_hub()

    def squelch(fileno: int, found: Any) -> None:
        _fault(*found)
        hub.remove_descriptor(fileno)

    hub.squelch_exception = squelch
    hub.squelch_timer_exception = lambda _timer, found: _fault(*found)
    hub.squelch_generic_exception = lambda found: _fault(*found)
    sys.excepthook = _fault
    threading.excepthook = lambda told: _fault(told.exc_type, told.exc_value, told.exc_traceback)
    logging.captureWarnings(True)
    faulthandler.enable()  # systemd ends a hung loop by SIGABRT: this tells where it hangs


def _fault(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and issubclass(kind, Exception):
        LOG.critical("an error that nobody caught", error=error, exc_info=(kind, error, trace))


# ---- its life, as systemd sees it


def tell_systemd(status: Callable[[], str]) -> None:
    """Says that the program is ready, how it stands, and, for as long as the loop goes round, that it does."""
    silence = systemd.watchdog()
    pause = min(STATUS_SECONDS, silence / 3) if silence else STATUS_SECONDS
    told = systemd.notify(READY=1, STATUS=status())
    while told:
        eventlet.sleep(pause)
        systemd.notify(WATCHDOG=1, STATUS=status())


# ---- its files


def allow_many_files() -> None:
    """As many as the process may have: each connection is one, and shells and containers begin with 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# ---- its end


class End:
    """SIGTERM, Ctrl-C, a terminal that closes: `steps` are taken one after the other; the process ends with status 0.

    A second signal ends it at once.  So do `END_SECONDS`, with status 1, when a step has not come to its end by then or
    the loop hangs; a line of the log says which, and where.  Until `wait` is called the signals end the process as they
    end any other.

    Not by Ryu's own way out: Python would wait for the threads that compare policies, or for a store that is stalled.
    """

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps = steps
        self._step = ""
        self._signals: tuple[signal.Signals, ...] = ()
        self._green: Any = None

    def wait(self) -> None:
        """Never returns.  To be called in a green thread of the main thread."""
        self._green = eventlet.getcurrent()
        heard, tell = os.pipe()
        begin, let_begin = os.pipe()
        os.set_blocking(tell, False)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        # To a program without a terminal SIGHUP says that files are to be read anew, and ours are followed.
        self._signals = (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if os.isatty(0) else ()))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in self._signals:
            signal.signal(number, lambda *_: None)  # what matters is what goes through the pipe
        _threading.Thread(target=self._watch, args=(heard, let_begin), name="end", daemon=True).start()
        trampoline(begin, read=True)
        systemd.notify(STOPPING=1, STATUS="ending")
        LOG.info("ending", signal=signal.Signals(os.read(begin, 1)[0]).name)
        for step in self._steps:
            self._step = step.__name__
            try:
                step()
            except Exception:
                LOG.exception("a step to the end failed", step=self._step)
        LOG.info("ended")
        logging.shutdown()
        _os._exit(0)

    def _watch(self, heard: int, let_begin: int) -> None:
        """The native thread."""
        first = self._heard(heard)
        _os.write(let_begin, bytes([first]))
        late = _threading.Timer(END_SECONDS, self._too_late)
        late.daemon = True
        late.start()
        _os._exit(128 + self._heard(heard))

    def _heard(self, pipe: int) -> int:
        while True:
            number = int(_os.read(pipe, 1)[0])
            if number in self._signals:
                return number

    def _too_late(self) -> None:
        # The log may be what hangs.
        words = _threading.Thread(target=self._say_what_holds, daemon=True)
        words.start()
        words.join(LAST_WORDS)
        _os._exit(1)

    def _say_what_holds(self) -> None:
        frame = self._green.gr_frame if self._step else None  # None: it is not waiting, but running
        calls = traceback.extract_stack(frame or sys._current_frames()[_threading.main_thread().ident])
        where = [f"{os.path.basename(call.filename)}:{call.lineno} {call.name}" for call in calls[-NAMED_CALLS:]]
        LOG.critical("ended by force", seconds=END_SECONDS, step=self._step or "waiting for the loop", where=where)


set_up_log()
log_all_faults()
allow_many_files()
memory.collect_seldom()
