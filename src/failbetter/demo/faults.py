"""What will go wrong in one demo, decided beforehand from its seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

OUTAGE_KINDS = ("closed", "unavailable")

LONGEST_OUTAGE = 25.0

REFUSALS = (
    (403, "the owner's policy forbids this file"),
    (422, "the content scanner rejects this file"),
)


@dataclass(frozen=True)
class StoreFaults:
    """How the store misbehaves. The default is a store that is always well.

    `limited_share`: share (0 to 1) of the objects whose first upload is answered 429, with
    `retry_after` whole seconds. `refused`: object name -> (status, words), for good.
    The outage begins when `outage_after` objects have been stored and lasts `outage_seconds`,
    or until someone repairs the store; `outage_kind` is "closed" (nobody listens on the port)
    or "unavailable" (503).
    `upload_seconds`: how long the store takes for each upload.
    """

    seed: int = 0
    limited_share: float = 0.0
    retry_after: int = 1
    refused: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    outage_after: int | None = None
    outage_seconds: float = 5.0
    outage_kind: str = "closed"
    upload_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what the store could not do."""
        if self.outage_kind not in OUTAGE_KINDS:
            raise ValueError(f"outage_kind: {self.outage_kind!r} is none of {OUTAGE_KINDS}")

    def limits(self, name: str) -> bool:
        """Whether the first upload of this object is answered 429: a draw from the seed."""
        draw = hashlib.sha256(f"{self.seed} 429 {name}".encode()).digest()
        return int.from_bytes(draw[:4], "big") < self.limited_share * 2**32

    def to_json(self) -> str:
        """The faults as one line, for the store's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> StoreFaults:
        """Read what `to_json` wrote; raises `ValueError` or `TypeError` on anything else."""
        document = json.loads(text)
        if "refused" in document:
            document["refused"] = {k: (int(s), str(w)) for k, (s, w) in document["refused"].items()}
        return cls(**document)


@dataclass(frozen=True)
class Plan:
    """The faults of one demo: the store's, the poison file, and when Murphy strikes.

    `kill_child_after` and `kill_worker_after` count stored objects. With too few files for all
    of it (`complete` is false) the proof does not insist that every fault has struck.
    """

    store: StoreFaults
    poison: str | None
    kill_child_after: int
    kill_worker_after: int
    complete: bool

    @property
    def refused(self) -> frozenset[str]:
        """The files that the store will refuse."""
        return frozenset(self.store.refused)

    def expected(self, names: Sequence[str]) -> list[str]:
        """The files that must be in the store at the end."""
        return [name for name in names if name != self.poison and name not in self.refused]


ENOUGH_FILES = 40


def plan(names: Sequence[str], seed: int) -> Plan:
    """Decide the faults of a demo over these files."""
    rng = random.Random(f"faults {seed}")
    hand = list(names)
    rng.shuffle(hand)
    poison = hand.pop() if len(hand) > 2 else None
    refused = {hand.pop(): REFUSALS[turn % len(REFUSALS)] for turn in range(min(5, len(hand) // 8))}
    stored = len(hand)
    return Plan(
        store=StoreFaults(
            seed=seed,
            limited_share=0.08,
            refused=refused,
            outage_after=max(1, stored * 4 // 5),
            outage_seconds=LONGEST_OUTAGE,
            upload_seconds=0.05,
        ),
        poison=poison,
        kill_child_after=stored // 5,
        kill_worker_after=stored // 2,
        complete=len(names) >= ENOUGH_FILES,
    )
