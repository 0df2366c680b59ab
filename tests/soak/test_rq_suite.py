"""RQ's own test suite passes with the watching workers as it does with RQ's (D2).

It is fetched as the release that is installed, and never copied here. It asks for a Redis at the
usual port, which it empties: so it is run where there is no other, in a network of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import rq

pytestmark = pytest.mark.soak

APP = """
import failbetter
from failbetter.rq import watch

app = failbetter.App("sqlite:///{folder}/jobs.db")
watch(app, "redis://127.0.0.1:6379")
"""
# The loopback of a new network is down; Redis is to be there for as long as the tests run.
INSIDE = """
ip link set lo up || exit 99
redis-server --port 6379 --databases 32 --save "" --dir "$1" --logfile "$1/redis.log" &
server=$!
shift
until redis-cli ping >/dev/null 2>&1; do kill -0 $server || exit 98; sleep 0.1; done
"$@"
code=$?
kill $server
exit $code
"""
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RQ's release as it was published, unpacked, without its code."""
    folder = tmp_path_factory.mktemp("rq")
    if subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode:
        pytest.skip("a network of one's own cannot be had here: it takes root")
    fetched = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"),
            *("--no-build-isolation", "--dest", str(folder), f"rq=={rq.VERSION}"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if fetched.returncode:
        pytest.skip(f"rq {rq.VERSION} cannot be fetched here: {fetched.stderr[-300:]}")
    (archive,) = folder.glob("rq-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    (unpacked,) = (path.parent for path in folder.glob("*/tests"))
    # What is tested is what is installed.
    (unpacked / "rq").rename(unpacked / "code of rq")
    (folder / "suite_app.py").write_text(APP.format(folder=folder))
    return unpacked


def run(suite: Path, *arguments: str) -> tuple[int, str]:
    """Run RQ's tests; the exit code, and what was said."""
    folder = suite.parent
    path = [str(folder), str(suite), str(Path(__file__).parent)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "FAILBETTER_APP": "suite_app:app",
        # It starts `rqworker` by its name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    command = ["unshare", "-n", "sh", "-c", INSIDE, "inside", str(folder), *pytest_, *arguments]
    done = subprocess.run(
        command, cwd=suite, env=environment, check=False, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(3600)
def test_rqs_own_tests_pass_as_they_do_without(suite: Path) -> None:
    """Some of them go by the clock, and fail now and then on a machine that has much to do."""
    watching = ("-p", "swap_workers")
    _, said = run(suite, *watching, "tests")
    assert re.search(r"[4-9]\d\d passed", said), said[-3000:]
    failed = FAILED.findall(said)
    for _ in range(3):
        if failed:
            _, said = run(suite, *watching, *failed)
            failed = FAILED.findall(said)
    if failed:
        # What fails with RQ's own workers, too, is none of ours.
        _, without = run(suite, *failed)
        assert set(failed) <= set(FAILED.findall(without)), said[-5000:]
