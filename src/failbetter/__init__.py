"""failbetter: background jobs that fail better.

Every job has one durable record, its ledger row, that tells the truth and reaches an end.
"""

from failbetter.app import App
from failbetter.breaker import Breaker
from failbetter.doubt import Doubt, Happened
from failbetter.durations import Duration
from failbetter.engines.celery import Celery
from failbetter.engines.rq import RQ
from failbetter.errors import (
    AttemptLost,
    Cancelled,
    ConfigurationError,
    Discard,
    EffectUncertain,
    Fail,
    FailbetterError,
    Interrupted,
    JobFailed,
    JobNotFound,
    LedgerError,
    LedgerFull,
    LedgerUnavailable,
    NotInJob,
    OperationNotFound,
    PayloadTooLarge,
    Refused,
    Release,
    Retry,
    SchemaMismatch,
    Stalled,
    TimedOut,
    UnknownTask,
)
from failbetter.health import Finding, Health
from failbetter.holds import Hold
from failbetter.job import Attempt, Edit, Effect, FailedItem, Job, Progress
from failbetter.lifecycle.backoff import Backoff, exponential, fixed, linear
from failbetter.lifecycle.events import Event
from failbetter.lifecycle.fingerprint import Failure, Frame, fingerprint
from failbetter.mirror.check import MirrorCheck, MirrorRow
from failbetter.rate_limit import RateLimit
from failbetter.recovery.report import (
    GoneWorker,
    RecoveredJob,
    RecoveryCounts,
    RecoveryProgress,
    RecoveryReport,
    RecoveryStatus,
    WatchedWorker,
)
from failbetter.restarts import WorkerRestart
from failbetter.resume import Items
from failbetter.running import RunningJob, current_job
from failbetter.task import Call, Task
from failbetter.triage.groups import Group
from failbetter.triage.operations import Operation
from failbetter.triage.preview import Preview, PreviewedJob
from failbetter.triage.prune import PruneReport
from failbetter.triage.queries import Jobs
from failbetter.triage.report import OperatedJob, Report

__version__ = "0.1.0"

__all__ = [
    "RQ",
    "App",
    "Attempt",
    "AttemptLost",
    "Backoff",
    "Breaker",
    "Call",
    "Cancelled",
    "Celery",
    "ConfigurationError",
    "Discard",
    "Doubt",
    "Duration",
    "Edit",
    "Effect",
    "EffectUncertain",
    "Event",
    "Fail",
    "FailbetterError",
    "FailedItem",
    "Failure",
    "Finding",
    "Frame",
    "GoneWorker",
    "Group",
    "Happened",
    "Health",
    "Hold",
    "Interrupted",
    "Items",
    "Job",
    "JobFailed",
    "JobNotFound",
    "Jobs",
    "LedgerError",
    "LedgerFull",
    "LedgerUnavailable",
    "MirrorCheck",
    "MirrorRow",
    "NotInJob",
    "OperatedJob",
    "Operation",
    "OperationNotFound",
    "PayloadTooLarge",
    "Preview",
    "PreviewedJob",
    "Progress",
    "PruneReport",
    "RateLimit",
    "RecoveredJob",
    "RecoveryCounts",
    "RecoveryProgress",
    "RecoveryReport",
    "RecoveryStatus",
    "Refused",
    "Release",
    "Report",
    "Retry",
    "RunningJob",
    "SchemaMismatch",
    "Stalled",
    "Task",
    "TimedOut",
    "UnknownTask",
    "WatchedWorker",
    "WorkerRestart",
    "current_job",
    "exponential",
    "fingerprint",
    "fixed",
    "linear",
]
