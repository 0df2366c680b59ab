"""Findings about the ledger and its workers, and the pages that show them. It prints nothing."""

from failbetter.health.findings import Finding, Health, Status, check

__all__ = ["Finding", "Health", "Status", "check"]
