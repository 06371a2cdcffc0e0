"""What was sent, by key, on disk."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from services.email.contracts import EmailReceipt


class Receipts:
    """One file a key. All methods block; call them in a thread.

    Args:
        keep: seconds that a receipt is kept; after that its key counts as new. Longer takes more disk.
    """

    def __init__(self, directory: Path, keep: float) -> None:
        self._directory, self._keep = directory, keep

    def find(self, key: str) -> EmailReceipt | None:
        try:
            return EmailReceipt.model_validate_json(self._path(key).read_bytes())
        except FileNotFoundError:
            return None

    def store(self, receipt: EmailReceipt) -> None:
        path = self._path(receipt.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(receipt.model_dump_json(), encoding="utf-8")
        new.replace(path)

    def prune(self) -> int:
        """Remove those that are too old, and say how many."""
        oldest, removed = time.time() - self._keep, 0
        for path in self._directory.glob("*.json"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _path(self, key: str) -> Path:
        return self._directory / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
