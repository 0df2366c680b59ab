"""The endpoints as a pure function, and the judgement behind them: no server, no ledger."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.conformance.kit import NOW, SECOND, new_worker

from failbetter.health import Finding, metrics, pages
from failbetter.health.figures import Figures
from failbetter.health.findings import Health, health, judge
from failbetter.health.looker import Seen
from failbetter.ledger.outbox import Waiting
from failbetter.recovery.deciding import moment
from failbetter.recovery.report import RecoveryCounts, RecoveryStatus
from failbetter.retention import Pruned


class Process:
    """A process that is well, or as the test wants it."""

    def __init__(self, dead: str | None = None, busy: str | None = None) -> None:
        self.dead = dead
        self.busy = busy
        self.more: list[Finding] = []

    def not_alive(self) -> str | None:
        return self.dead

    def not_ready(self) -> str | None:
        return self.busy

    def findings(self) -> list[Finding]:
        return self.more


def recovery(swept_at: int | None = None, **given: Any) -> RecoveryStatus:
    """Recovery as the ledger has it: a last sweep, and no recovery at one go, unless given."""
    fields: dict[str, Any] = {
        "in_progress": False,
        "by": None,
        "last_at": None,
        "last_outcome": None,
        "last": None,
        "swept_at": None if swept_at is None else moment(swept_at),
        "swept": RecoveryCounts(gone=1, handed_back=5, ended=2, refused=1),
        **given,
    }
    return RecoveryStatus(**fields)


def figures(**given: Any) -> Figures:
    """A ledger with one worker that is well, unless given otherwise."""
    fields: dict[str, Any] = {
        "ledger": "sqlite:///jobs.db",
        "now": NOW,
        "most": 1_000,
        "alive": [new_worker(1)],
        "silent": [],
        "counts": {"pending": 3, "running": 2, "failed": 1},
        "oldest": NOW - 90 * SECOND,
        "mirrored": Waiting(0, None, None),
        "stranded": 0,
        "holds": [],
        "recovery": recovery(NOW - SECOND),
        **given,
    }
    return Figures(**fields)


WELL = Seen(figures())
AWAY = Seen(None, "it is out of reach")


def get(path: str, seen: Seen | None = WELL, *, method: str = "GET", **process: Any) -> Any:
    """The response, with its headers as a mapping and its body decoded."""
    wanted = seen if pages.needs_ledger(method, path) else None
    made = pages.answer(method, path, Process(**process), wanted)
    headers = dict(made.headers)
    assert headers["Content-Length"] == str(len(made.body))
    assert headers["Cache-Control"] == "no-store"
    body = json.loads(made.body) if "json" in headers["Content-Type"] else made.body.decode()
    return made.status, headers, body


def findings(document: Health) -> dict[str, Finding]:
    return {finding.name: finding for finding in document.findings}


def judged(**given: Any) -> dict[str, Finding]:
    return findings(health(judge(figures(**given))))


# -- pages


def test_a_live_process_is_alive_whatever_the_ledger_does() -> None:
    assert not pages.needs_ledger("GET", "/livez")
    assert get("/livez") == (200, get("/livez")[1], {"status": "pass"})
    status, headers, body = get("/livez", dead="the loop hangs")
    assert (status, body) == (503, {"status": "fail", "output": "the loop hangs"})
    assert headers["Content-Type"] == "application/health+json"


def test_ready_needs_the_ledger_and_the_process() -> None:
    assert get("/readyz")[0] == 200
    assert get("/readyz", AWAY)[::2] == (503, {"status": "fail", "output": AWAY.why})
    assert get("/readyz", busy="not yet")[::2] == (503, {"status": "fail", "output": "not yet"})


def test_the_document() -> None:
    status, headers, body = get("/health")
    assert (status, headers["Content-Type"]) == (200, "application/health+json")
    assert body["status"] == "pass"
    assert body["checks"]["jobs"]["observedValue"] == {"pending": 3, "running": 2, "failed": 1}
    assert body["checks"]["oldest_waiting_seconds"]["observedValue"] == 90.0


def test_a_warning_is_no_error_of_http() -> None:
    assert get("/health", Seen(figures(alive=[])))[0] == 200
    assert get("/health", Seen(figures(alive=[])))[2]["status"] == "warn"


def test_unknown_is_never_healthy() -> None:
    status, _, body = get("/health", AWAY)
    assert (status, body["status"]) == (503, "fail")
    assert body["checks"]["ledger"]["output"] == AWAY.why


def test_what_the_process_says_counts_too() -> None:
    process = Process()
    process.more = [Finding("startup_recovery", "warn", "timed_out", "left some")]
    body = json.loads(pages.answer("GET", "/health", process, WELL).body)
    assert body["status"] == "warn"
    assert body["checks"]["startup_recovery"]["output"] == "left some"


@pytest.mark.parametrize("path", ["", "/", "/healthz", "/health/", "/livez/x", "/HEALTH"])
def test_an_unknown_path(path: str) -> None:
    status, headers, body = get(path)
    assert (status, body["status"]) == (404, 404)
    assert headers["Content-Type"] == "application/problem+json"
    assert not pages.needs_ledger("GET", path)


@pytest.mark.parametrize("path", sorted(pages.PATHS))
def test_reading_is_all_that_can_be_done(path: str) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", ""):
        status, headers, body = get(path, method=method)
        assert (status, headers["Allow"], body["title"]) == (405, "GET, HEAD", "Method Not Allowed")
    assert get(path, method="HEAD")[:2] == get(path)[:2]


# -- metrics


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Name and label values to value, as Prometheus's own parser reads them."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics() -> None:
    status, headers, body = get("/metrics", Seen(figures(stranded=4)))
    assert (status, headers["Content-Type"]) == (200, metrics.CONTENT_TYPE)
    found = samples(body)
    assert found[("failbetter_ledger_up",)] == 1
    assert found[("failbetter_jobs", "pending")] == 3
    assert found[("failbetter_oldest_waiting_seconds",)] == 90
    assert found[("failbetter_jobs_needing_recovery",)] == 4
    assert found[("failbetter_workers",)] == 1
    assert found[("failbetter_last_sweep_timestamp_seconds",)] == (NOW - SECOND) / 1e6
    assert found[("failbetter_swept_jobs_total", "handed_back")] == 5
    assert all(name.startswith("failbetter_") for name, *_ in found)
    labelled = {name for name, *labels in found if labels}
    assert labelled == {"failbetter_jobs", "failbetter_swept_jobs_total"}


def test_metrics_of_what_was_pruned() -> None:
    pruned = Pruned(None, 5, 0, 1, {"succeeded": 30.0, "failed": 2.0})
    found = samples(get("/metrics", Seen(figures(pruned=pruned)))[2])
    assert found[("failbetter_pruned_jobs_total", "succeeded")] == 5
    assert found[("failbetter_pruned_jobs_total", "failed")] == 1
    assert found[("failbetter_retention_behind_seconds",)] == 30


def test_what_is_not_known_is_absent_and_never_zero() -> None:
    assert samples(get("/metrics", AWAY)[2]) == {("failbetter_ledger_up",): 0}
    never_swept = Seen(figures(recovery=recovery()))
    assert ("failbetter_last_sweep_timestamp_seconds",) not in samples(
        get("/metrics", never_swept)[2]
    )


def test_without_the_library_metrics_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    status, _, body = get("/metrics")
    assert (status, "`metrics`" in body["detail"]) == (501, True)
    assert get("/health")[0] == 200


# -- findings


def test_all_is_well() -> None:
    assert {finding.status for finding in judged().values()} == {"pass"}


def test_counts_say_when_they_are_a_lower_bound() -> None:
    found = judged(counts={"pending": 1_001, "running": 1_000, "failed": 1_001}, stranded=1_001)
    assert found["jobs"].observed == {"pending": 1_000, "running": 1_000, "failed": 1_000}
    assert found["jobs"].output == "more than 1,000 are pending and failed"
    assert found["needs_recovery"].observed == 1_000
    assert "more than 1,000 jobs" in str(found["needs_recovery"].output)


def test_jobs_of_workers_that_are_gone() -> None:
    one = judged(stranded=1)["needs_recovery"]
    assert (one.status, one.observed) == ("warn", 1)
    assert one.output == "1 job belongs to a worker that is gone; the next sweep hands them back"
    assert "failbetter recover" in str(judged(stranded=2, alive=[])["needs_recovery"].output)


@pytest.mark.parametrize(
    ("started", "swept", "status"),
    [
        (100, 20, "pass"),
        (100, 31, "warn"),
        (20, None, "pass"),  # it has not had the time
        (31, None, "warn"),
    ],
)
def test_a_sweeper_that_cannot_work_shows(started: int, swept: int | None, status: str) -> None:
    worker = new_worker(1, lease=30 * SECOND, started_at=NOW - started * SECOND)
    last = None if swept is None else NOW - swept * SECOND
    found = judged(alive=[worker], recovery=recovery(last))["sweeps"]
    assert found.status == status
    assert (found.output is None) == (status == "pass")


def test_the_last_and_the_next_sweep_are_told() -> None:
    found = judged()["sweeps"].observed
    assert found == {
        "last": "2023-11-14T22:13:19.000Z",
        "next": "2023-11-14T22:13:20.000Z",
        "handed_back": 5,
        "ended": 2,
        "refused": 1,
    }


def test_sweeps_without_a_worker() -> None:
    maintained = judged(alive=[])["sweeps"]
    assert (maintained.status, maintained.output) == ("pass", None)
    for last, shown in (
        (NOW - 31 * SECOND, "2023-11-14T22:12:49.000Z"),
        (None, None),
    ):
        nobody = judged(alive=[], recovery=recovery(last))["sweeps"]
        assert (nobody.status, nobody.observed["last"]) == ("warn", shown)
        assert nobody.observed["next"] is None


def test_the_last_recovery_is_told() -> None:
    assert judged()["recovery"].observed == {"last": None, "outcome": None}
    at = moment(NOW - 60 * SECOND)
    done = recovery(last_at=at, last_outcome="recovered", in_progress=True, by="here:7")
    found = judged(recovery=done)["recovery"]
    assert found.observed == {"last": "2023-11-14T22:12:20.000Z", "outcome": "recovered"}
    assert found.output == "under way, by here:7"


def test_workers_on_old_code_are_named() -> None:
    old = new_worker(1, code="v1", name="old", started_at=NOW - 2 * SECOND)
    new = new_worker(2, code="v2", name="new", started_at=NOW - SECOND)
    found = judged(alive=[old, new])["old_code"]
    assert (found.status, found.observed) == ("warn", 1)
    assert str(found.output).endswith(": old (code v1)")
    assert "old_code" not in judged(alive=[new_worker(1, code="v2"), new])


def test_of_many_silent_workers_some_are_named() -> None:
    silent = [new_worker(number, name=f"w{number}") for number in range(1, 8)]
    text = str(judged(silent=silent)["leases"].output)
    assert "w1, w2, w3, w4, w5 and 2 more" in text


def test_a_mirror_that_lags() -> None:
    assert "mirror" not in judged()
    lagging = judged(mirrored=Waiting(2, NOW - 6 * SECOND, "no such table"))["mirror"]
    assert (lagging.status, lagging.observed) == ("warn", {"waiting": 2, "oldest_seconds": 6.0})
    assert judged(mirrored=Waiting(2, NOW - SECOND, None))["mirror"].status == "pass"
