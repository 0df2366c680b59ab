"""The store's books: objects on disk, uploads by idempotency key, receipts. No HTTP here."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath


class BadUpload(Exception):
    """The upload contradicts itself; `status` is the HTTP answer, `code` its short name."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


@dataclass
class Delivery:
    """What became of one idempotency key: `stored` must end as 1, `repeated` may be anything."""

    name: str
    sha256: str
    stored: int = 0
    repeated: int = 0


@dataclass(frozen=True)
class Receipt:
    """One accepted receipt. The store keeps every one, so that a second one shows."""

    key: str
    name: str
    sha256: str


@dataclass
class Shelf:
    """Objects below `root/objects`, receipts also as lines in `root/receipts.jsonl`."""

    root: Path
    _sizes: dict[str, tuple[int, str]] = field(default_factory=dict)
    _deliveries: dict[str, Delivery] = field(default_factory=dict)
    _receipts: list[Receipt] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _serial: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        """Make the folders."""
        (self.root / "objects").mkdir(parents=True, exist_ok=True)
        (self.root / "incoming").mkdir(exist_ok=True)

    def path(self, name: str) -> Path:
        """Where an object lies; raises `BadUpload` for a name that would leave the folder."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise BadUpload(400, "bad_name", f"not an object name: {name!r}")
        return self.root / "objects" / Path(*parts)

    def put(self, name: str, body: bytes, sha256: str | None, key: str | None) -> bool:
        """Store an object; true when it was stored now, false when `key` had stored it before.

        Raises `BadUpload` when the hash is missing or wrong, or the key was used for other bytes.
        """
        target = self.path(name)
        found = hashlib.sha256(body).hexdigest()
        if sha256 != found:
            raise BadUpload(400, "wrong_hash", f"X-Content-SHA256 says {sha256}, body has {found}")
        with self._lock:
            if key is None:
                key = f"no key, upload {next(self._serial)}"
            delivery = self._deliveries.setdefault(key, Delivery(name, found))
            if (delivery.name, delivery.sha256) != (name, found):
                raise BadUpload(409, "key_reused", "this Idempotency-Key stored something else")
            if delivery.stored:
                delivery.repeated += 1
                return False
            self._write(target, body)
            delivery.stored += 1
            self._sizes[name] = (len(body), found)
            return True

    def _write(self, target: Path, body: bytes) -> None:
        # A reader sees the whole object or none: written aside, then moved into place.
        aside = self.root / "incoming" / str(next(self._serial))
        aside.write_bytes(body)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside, target)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise BadUpload(409, "name_taken", f"cannot be stored: {error.strerror}") from error

    def get(self, name: str) -> bytes | None:
        """The object's bytes as they are on disk, or None."""
        path = self.path(name)
        return path.read_bytes() if name in self._sizes and path.is_file() else None

    def describe(self, name: str) -> tuple[int, str] | None:
        """Size in bytes and SHA-256 of an object as it was uploaded, or None."""
        return self._sizes.get(name)

    def listing(self, prefix: str = "") -> list[dict[str, object]]:
        """Every object whose name starts so: name, size, sha256; by name."""
        with self._lock:
            known = sorted(self._sizes.items())
        return [
            {"name": name, "size": size, "sha256": sha256}
            for name, (size, sha256) in known
            if name.startswith(prefix)
        ]

    def add_receipt(self, key: str, name: str, sha256: str) -> None:
        """Take a receipt, even one that was given before: what happened twice must show."""
        receipt = Receipt(key, name, sha256)
        with self._lock:
            self._receipts.append(receipt)
            with (self.root / "receipts.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(receipt.__dict__) + "\n")

    def receipts(self) -> list[Receipt]:
        """Every receipt, in the order they came."""
        with self._lock:
            return list(self._receipts)

    def deliveries(self) -> dict[str, Delivery]:
        """Idempotency key -> what became of its uploads."""
        with self._lock:
            return dict(self._deliveries)

    def counts(self) -> dict[str, int]:
        """Figures: objects stored, uploads repeated under a known key, receipts."""
        with self._lock:
            deliveries = self._deliveries.values()
            return {
                "stored": sum(d.stored for d in deliveries),
                "repeated": sum(d.repeated for d in deliveries),
                "receipts": len(self._receipts),
            }
