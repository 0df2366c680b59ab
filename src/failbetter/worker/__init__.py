"""The embedded engine: a supervisor that talks to the ledger, and children that run bodies."""
