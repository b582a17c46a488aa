"""Options: what a file says is what the program sees."""

from pathlib import Path

import pytest
from oslo_config import cfg

from firewall_app.settings import Settings, page, read

PAGE = Path(__file__).parent.parent / "docs" / "options.md"


def conf(tmp_path, *lines):
    path = tmp_path / "fw.conf"
    path.write_text("\n".join(["[firewall]", *lines]) + "\n")
    found = cfg.ConfigOpts()
    found(["--config-file", str(path)])
    return found


def test_defaults(tmp_path):
    assert read(conf(tmp_path)) == Settings()


def test_what_the_file_says(tmp_path):
    settings = read(
        conf(tmp_path, "uplinks = eth0, bond*", "closed = true", "max_rules = 7", "database = sqlite:///x.db")
    )
    assert settings.uplinks == ("eth0", "bond*")
    assert settings.closed is True
    assert (settings.max_rules, settings.database) == (7, "sqlite:///x.db")


@pytest.mark.parametrize(
    ("said", "meant"), [("auto", "auto"), ("yes", "yes"), ("true", "yes"), ("On", "yes"), ("False", "no"), ("no", "no")]
)
def test_enrol_is_yes_no_or_auto(tmp_path, said, meant):
    assert read(conf(tmp_path, f"enrol = {said}")).enrol == meant
    with pytest.raises(cfg.Error, match="enrol is 'perhaps'; it must be one of yes, no, auto"):
        read(conf(tmp_path, "enrol = perhaps"))


@pytest.mark.parametrize("line", ["max_rules = many", "closed = perhaps"])
def test_a_wrong_value_names_the_option(tmp_path, line):
    with pytest.raises(cfg.Error, match=line.split()[0]):
        read(conf(tmp_path, line))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("max_rules = x", "'x'; it must be a whole number from 0 on"),
        *(
            (f"max_{name} = -1", "'-1'; it must be a whole number from 0 on")
            for name in ("droplets", "tags", "rules", "entries", "port_connections")
        ),
        ("max_body = 0", "'0'; it must be a whole number from 1 on"),
        ("max_firewalls = 31", "'31'; it must be a whole number from 1 to 30"),
        ("closed = perhaps", "'perhaps'; it must be true or false"),
    ],
)
def test_a_wrong_value_is_told_with_its_file(tmp_path, line, wanted):
    if "port_connections" in line:
        wanted = wanted.replace("from 0 on", "from 0 to 2147483647")
    with pytest.raises(cfg.Error) as error:
        read(conf(tmp_path, line))
    assert str(error.value) == f"{tmp_path}/fw.conf: {line.split()[0]} in [firewall] is {wanted}"


@pytest.mark.parametrize(
    "origin", ["panel.example.com", "https://", "https://x.example/", "//x", "null", "https://X.example"]
)
def test_an_origin_that_no_browser_sends_is_an_error(tmp_path, origin):
    with pytest.raises(cfg.Error, match="cors_origins has"):
        read(conf(tmp_path, f"cors_origins = https://good.example:8443, {origin}"))
    for good in ("*", "https://good.example:8443", "http://[::1]:3000", "http://localhost"):
        assert read(conf(tmp_path, f"cors_origins = {good}")).cors_origins == (good,)


@pytest.mark.parametrize(("line", "words"), [("clsed = true", "did you mean closed"), ("nonsense = 1", "nonsense")])
def test_an_unknown_option_is_an_error(tmp_path, line, words):
    with pytest.raises(cfg.Error, match=words):
        read(conf(tmp_path, line))


def test_the_committed_page_is_what_the_code_prints():
    assert PAGE.read_text() == page(), "docs/options.md is stale: run `make docs`"
    for name in ("database", "uplinks", "audit_interval"):
        assert f"| `{name}` |" in page()


@pytest.mark.parametrize(("given", "lacks"), [("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")])
def test_https_needs_both_files(tmp_path, given, lacks):
    with pytest.raises(cfg.Error, match=f"{given} is set and {lacks} is not"):
        read(conf(tmp_path, f"{given} = /etc/firewall/x"))
    both = read(conf(tmp_path, f"{given} = /x", f"{lacks} = /y"))
    assert {both.tls_certificate, both.tls_key} == {"/x", "/y"}
