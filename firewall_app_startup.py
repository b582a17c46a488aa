"""Let plain `ryu-manager` start under a current eventlet.

Loaded by `cloud_firewall_ryu.pth` when the interpreter starts, so it must stay tiny: it imports nothing
until Ryu's WSGI module is asked for.  Ryu 4.34 does `from eventlet.wsgi import ALREADY_HANDLED`, a name that
eventlet dropped in 0.31; we never use Ryu's WSGI server, so any value does.
"""

import sys
import warnings

# Ryu stands on eventlet: its users can do nothing about this, at every start.
warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")


class _RyuWsgiHook:
    @staticmethod
    def find_spec(name, path=None, target=None):  # noqa: ARG004 - the signature is importlib's
        if name == "ryu.app.wsgi":
            sys.meta_path.remove(_RyuWsgiHook)
            _hush()
            import eventlet.wsgi

            if not hasattr(eventlet.wsgi, "ALREADY_HANDLED"):
                eventlet.wsgi.ALREADY_HANDLED = []


def _hush():
    """The first lines of Ryu's and eventlet's come before anybody can say what lines look like, and say nothing."""
    import logging

    logging.getLogger("ryu.base.app_manager").setLevel(logging.WARNING)
    logging.lastResort = logging.NullHandler()  # "RLock(s) were not greened", to a logger without a handler


sys.meta_path.insert(0, _RyuWsgiHook)
