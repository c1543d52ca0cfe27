"""The most threads that the engines which serve others may run, as this machine's owner and its governor allow now."""

from __future__ import annotations


class ThreadCap:
    """Written by the event loop, read by engines' threads before every step."""

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads
        """The governor's; 0 is no cap."""
        self.saving = False
        """One thread alone, to save power."""

    @property
    def now(self) -> int:
        """Both together; 0 is no cap."""
        return 1 if self.saving else self.threads

    def limit(self, threads: int) -> int:
        """As many of these as are allowed, at least one."""
        cap = self.now
        return max(1, min(threads, cap)) if cap > 0 else threads
