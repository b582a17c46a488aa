"""The README's first command."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import lab.cloud
import lab.demo
from firewall_app.policy.decide import Decision, Verdict

pytestmark = pytest.mark.lab
ROOT = Path(__file__).parent.parent


def left(tag: str) -> list[str]:
    """What is there of a demo."""
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    found = [line for line in (namespaces + links).splitlines() if f"fw-{tag}-" in line or f"fw{tag}m" in line]
    return found + [line for line in processes.splitlines() if f"fw-{tag}/" in line]


def begin(tag: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lab.demo", "--tag", tag, *options],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_the_demo_ends_well_and_leaves_nothing():
    process = begin("d1")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert re.search(r"\d{4} probes in [\d.]+ s, 0 not as expected", output)
    assert output.count("all as expected") == 5
    assert "NOT AS EXPECTED" not in output
    assert left("d1") == []


def test_it_fails_when_packets_do_not_agree_with_the_meaning(monkeypatch, capsys):
    def everything_passes(*_, **__):
        return Decision(Verdict.ALLOW, "so they say")

    monkeypatch.setattr(lab.cloud, "decide", everything_passes)
    monkeypatch.setattr(lab.demo, "decide", everything_passes)
    monkeypatch.setattr(sys, "argv", ["demo", "--tag", "d2"])
    assert lab.demo.main() == 1
    assert "NOT AS EXPECTED" in capsys.readouterr().out
    assert left("d2") == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(end):
    process = begin("d3")
    assert process.stdout is not None
    for line in process.stdout:
        if "2. A firewall on a tag" in line:
            break
    assert left("d3")
    process.send_signal(end)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert left("d3") == []


def test_kept_it_stays_and_what_it_says_to_type_works():
    process = begin("d4", "--keep")
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        if "Go on by hand" in line:
            break
    try:
        for line in process.stdout:
            if line.strip().startswith("tail -f"):
                break
            lines.append(line)
        done = subprocess.run(["bash", "-ec", "".join(lines)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert '"name": "web-fw"' in done.stdout
        assert "204 No Content" in done.stdout
        assert "3 received" in done.stdout
        assert "table=30" in done.stdout
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert left("d4") == []
