"""Every option, with default and unit; read once, when the application starts.

They live in the `[firewall]` section of the file that `ryu-manager --config-file` reads.

    python -m firewall_app.settings > docs/options.md
"""

from __future__ import annotations

import re
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from oslo_config import cfg

from . import logs
from .policy.model import DEFAULT_ACCOUNT, MOST_CONNECTIONS


def _option(default: Any, text: str, **bounds: int) -> Any:
    return field(default=default, metadata={"help": text, "bounds": bounds})


@dataclass(frozen=True)
class Settings:
    """The settings of one controller process."""

    database: str = _option("sqlite:///firewall.db", "SQLAlchemy URL of the store: sqlite:///FILE or postgresql://...")
    token_file: str = _option(
        "", "where a first operator's token is written; default: beside an SQLite file, else ./firewall.token"
    )
    uplinks: tuple[str, ...] = _option(
        ("eth*", "en*", "bond*"), "interfaces that are uplinks on hypervisors that name none: shell patterns or numbers"
    )
    enrol: str = _option(
        "auto",
        "what becomes of unregistered hypervisors that connect: yes: they get the closed pipeline; no: they are "
        "disconnected, and listed; auto: yes over plain TCP, no over TLS",
    )
    closed: bool = _option(False, "droplets behind no firewall are closed instead of open")
    track_open: bool = _option(
        True,
        "track the connections of open droplets, so that a firewall that is attached later cuts nothing that it "
        "allows; false spares the work, and cuts TCP connections that the droplet opened",
    )
    fragments: bool = _option(
        True,
        "track fragments, and judge them by the rule of their datagram; false: drop those from and to droplets behind "
        "a firewall. See the manual on the userspace datapath",
    )
    pickup_grace: int = _option(
        0,
        "seconds for which droplets may go on in the middle of TCP connections of their own, when their port came to a "
        "switch, or a switch restarted and forgot its connections",
        min=0,
        max=0xFFFF,
    )
    forget_cached: str = _option(
        "auto",
        "whether each change has switches forget the decisions that they cached: yes, no, or auto, for those of which "
        "it is known that they need it (Open vSwitch up to 3.1)",
    )
    max_droplets: int = _option(10, "droplets attached directly to one firewall", min=0)
    max_tags: int = _option(5, "tags attached to one firewall", min=0)
    max_firewalls: int = _option(
        30, "firewalls that one droplet may be behind; a switch asks them one after the other", min=1, max=30
    )
    max_rules: int = _option(50, "rules of one firewall, both directions together", min=0)
    max_entries: int = _option(1000, "entries in one list of a rule's sources or destinations", min=0)
    max_account_firewalls: int = _option(
        1000, "firewalls of one account; one that has more keeps them. 0: no limit", min=0
    )
    max_account_tags: int = _option(
        1000,
        "tags of one account; one that has more keeps them, and those that operators give to droplets always come to "
        "be. 0: no limit",
        min=0,
    )
    max_body: int = _option(1 << 20, "bytes of one request body", min=1)
    max_connections: int = _option(
        1000, "HTTP connections at once; when there are as many, idle ones give way to new ones", min=1
    )
    max_port_connections: int = _option(
        0,
        "connections of one port that hypervisors track at once, for ports without a `max_connections` of their own; "
        "0: no limit. `python -m firewall_app.zones` puts the limits in force",
        min=0,
        max=MOST_CONNECTIONS,
    )
    rate_limit: int = _option(
        5000, "requests an hour for each tenant's or viewer's token; operators are not limited. 0: no limit", min=0
    )
    rate_burst: int = _option(250, "requests a minute for each tenant's or viewer's token. 0: no limit", min=0)
    failed_attempts: int = _option(
        60, "requests a minute without a valid token from one address (IPv6: /64) before they get 429. 0: no limit",
        min=0,
    )  # fmt: skip
    trusted_proxies: tuple[str, ...] = _option(
        (),
        "addresses of reverse proxies whose X-Forwarded-For is believed, and `unix` for those on a Unix socket; for "
        "the audit log and `failed_attempts`",
    )
    cors_origins: tuple[str, ...] = _option(
        (), "origins whose pages may use the API from a browser, as https://panel.example.com, or *; none: CORS is off"
    )
    http_timeout: int = _option(
        30,
        "seconds that an HTTP client may take to send a request's head, its body, to take an answer, or be idle",
        min=1,
    )
    tls_certificate: str = _option(
        "",
        "file in PEM with the certificate of the REST server, and of its authorities up to the root; with it and "
        "`tls_key` it speaks HTTPS. `python -m firewall_app.certificates` makes both for a lab",
    )
    tls_key: str = _option("", "file in PEM with the key of `tls_certificate`, without a password")
    reply_timeout: int = _option(30, "seconds that a switch may take to answer before it is disconnected", min=1)
    audit_interval: int = _option(
        300, "seconds between two readings of a switch that should have nothing new; 0: never", min=0
    )
    metrics: str = _option(
        "token", "who may read /metrics: token (an operator's or a viewer's), open (everybody), off (nobody: 404)"
    )
    advertise: str = _option(
        "",
        "URL of this controller's REST API, which others that share the store tell clients while this one is active; "
        "default: by `wsapi_host` and `wsapi_port`",
    )
    log_format: str = _option(
        "text", "how lines of the log look: text, or json, an object a line. Ryu's options say where they go"
    )
    default_account: str = _option(DEFAULT_ACCOUNT, "the account of what is registered without one")


FORGET = {"auto": None, "yes": True, "no": False}
ENROL = {
    "auto": "auto",
    **dict.fromkeys(("yes", "true", "on", "1"), "yes"),
    **dict.fromkeys(("no", "false", "off", "0"), "no"),
}
METRICS = ("token", "open", "off")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s,A-Z]+")  # as browsers send it: no path, no user, in lower case
_TYPES = {str: cfg.StrOpt, int: cfg.IntOpt, bool: cfg.BoolOpt, tuple: cfg.ListOpt}


def read(conf: cfg.ConfigOpts) -> Settings:
    """Reads the settings; raises oslo_config's errors, which name the option.

    An unknown option is an error: a misspelt `closed = true` must not leave droplets open.
    """
    _no_unknown_options(conf)
    _register(conf)
    values = {option.name: _value(conf, option) for option in fields(Settings)}
    for name in ("uplinks", "trusted_proxies", "cors_origins"):
        values[name] = tuple(values[name])
    if values["forget_cached"] not in FORGET:
        raise cfg.Error(f"forget_cached is {values['forget_cached']!r}; it must be one of {', '.join(FORGET)}")
    if values["enrol"].lower() not in ENROL:
        raise cfg.Error(f"enrol is {values['enrol']!r}; it must be one of yes, no, auto")
    values["enrol"] = ENROL[values["enrol"].lower()]
    for origin in values["cors_origins"]:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise cfg.Error(f"cors_origins has {origin!r}; it must be an origin as https://panel.example.com, or *")
    if values["metrics"] not in METRICS:
        raise cfg.Error(f"metrics is {values['metrics']!r}; it must be one of {', '.join(METRICS)}")
    if values["log_format"] not in logs.FORMATS:
        raise cfg.Error(f"log_format is {values['log_format']!r}; it must be one of {', '.join(logs.FORMATS)}")
    if bool(values["tls_certificate"]) != bool(values["tls_key"]):
        given, lacks = ("tls_certificate", "tls_key") if values["tls_certificate"] else ("tls_key", "tls_certificate")
        raise cfg.Error(f"{given} is set and {lacks} is not: HTTPS needs both")
    return Settings(**values)


def log_format(conf: cfg.ConfigOpts) -> str:
    """`log_format` alone, for what is logged before the settings are read; `read` tells what is wrong with it."""
    _register(conf)
    said = str(conf.firewall.log_format)
    return said if said in logs.FORMATS else logs.FORMATS[0]


def _register(conf: cfg.ConfigOpts) -> None:
    options = []
    for option in fields(Settings):
        kind = _TYPES[type(option.default)]
        default = list(option.default) if isinstance(option.default, tuple) else option.default
        options.append(kind(option.name, default=default, help=option.metadata["help"], **option.metadata["bounds"]))
    conf.register_opts(options, group="firewall")


def _value(conf: cfg.ConfigOpts, option: Field[Any]) -> Any:
    """What the files say, or the default.  Raises cfg.Error that names the file."""
    try:
        return conf.firewall[option.name]
    except ValueError:
        path, text = next((path, said[option.name][-1]) for path, said in reversed(_said(conf)) if option.name in said)
        wanted = "true or false"
        if isinstance(option.default, int) and not isinstance(option.default, bool):
            bounds = option.metadata["bounds"]
            least, most = bounds.get("min"), bounds.get("max")
            wanted = "a whole number" + (f" from {least}" if least is not None else "")
            wanted += f" to {most}" if most is not None else "" if least is None else " on"
        raise cfg.Error(f"{path}: {option.name} in [firewall] is {text!r}; it must be {wanted}") from None


def _said(conf: cfg.ConfigOpts) -> list[tuple[str, dict[str, list[str]]]]:
    """Each configuration file, with what it says in our section."""
    found = []
    for path in conf.config_file or ():
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(path, sections).parse()
        found.append((path, sections.get("firewall", {})))
    return found


def _no_unknown_options(conf: cfg.ConfigOpts) -> None:
    known = [option.name for option in fields(Settings)]
    for path, said in _said(conf):
        for name in said:
            if name not in known:
                near = get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise cfg.Error(f"{path}: there is no option {name} in [firewall]{hint}")


def page() -> str:
    """docs/options.md."""
    lines = [
        "# Options",
        "",
        "*This page is printed from `firewall_app/settings.py` by `make docs`. Do not edit it.*",
        "",
        "In the section `[firewall]` of the configuration file. Lists are separated by commas.",
        "",
        "| option | default | what |",
        "|---|---|---|",
    ]
    for option in fields(Settings):
        default = ",".join(option.default) if isinstance(option.default, tuple) else str(option.default)
        shown = f"`{default.lower() if isinstance(option.default, bool) else default}`" if default else ""
        lines.append(f"| `{option.name}` | {shown} | {option.metadata['help']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
