"""Records as arguments: kept as references, looked up afresh when the job runs."""

from failbetter.records.loading import Missing, Records
from failbetter.records.references import (
    Reference,
    Stored,
    as_keys,
    as_references,
    as_stored,
    key_of,
    located,
    models_in,
    references_in,
    with_stored,
)

__all__ = [
    "Missing",
    "Records",
    "Reference",
    "Stored",
    "as_keys",
    "as_references",
    "as_stored",
    "key_of",
    "located",
    "models_in",
    "references_in",
    "with_stored",
]
