"""What conftest.py promises: on CI, nothing is skipped unseen."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

TESTS = """
import pytest

@pytest.mark.{mark}
def test_skips_itself():
    pytest.skip("no daemon")

@pytest.mark.{mark}
@pytest.mark.skipif(True, reason="not root")
def test_is_skipped():
    pass

@pytest.mark.{mark}
@pytest.mark.xfail(reason="known")
def test_is_known_to_fail():
    assert False

def test_without_the_mark():
    pytest.skip("as it may")
"""


@pytest.mark.parametrize(
    ("mark", "ci", "counts"),
    [
        ("ovs", "true", {"failed": 1, "error": 1, "xfailed": 1, "skipped": 1}),
        ("lab", "true", {"failed": 1, "error": 1, "xfailed": 1, "skipped": 1}),
        ("postgresql", "true", {"failed": 1, "error": 1, "xfailed": 1, "skipped": 1}),
        ("other", "true", {"xfailed": 1, "skipped": 3}),
        ("ovs", "", {"xfailed": 1, "skipped": 3}),
    ],
)
def test_a_skip_is_a_failure_on_ci(tmp_path: Path, mark: str, ci: str, counts: dict[str, int]) -> None:
    done = run(tmp_path, TESTS.format(mark=mark), ci)
    assert {word: int(n) for n, word in re.findall(r"(\d+) (\w+)", done.splitlines()[-1].split(" in ")[0])} == counts
    assert ("must not be skipped on CI" in done) == ("failed" in counts)


@pytest.mark.parametrize("ci", ["true", ""])
def test_a_file_that_skips_itself_is_an_error_on_ci(tmp_path: Path, ci: str) -> None:
    """Nobody can tell then which marks were in it."""
    done = run(tmp_path, 'import pytest\npytest.importorskip("no_such_module")\n', ci)
    assert ("1 error" if ci else "1 skipped") in done.splitlines()[-1]


def run(directory: Path, text: str, ci: str) -> str:
    """What pytest says of a file of tests beside our conftest."""
    shutil.copy(Path(__file__).parent / "conftest.py", directory)
    (directory / "test_some.py").write_text(text)
    names = ("ovs", "lab", "postgresql", "other")
    (directory / "pytest.ini").write_text("[pytest]\nmarkers =\n" + "".join(f"    {name}: a mark\n" for name in names))
    env = {name: value for name, value in os.environ.items() if name != "CI"} | ({"CI": ci} if ci else {})
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", str(directory)]
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False).stdout
