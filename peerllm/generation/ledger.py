"""The accounts of the last requests that this asker answered, in memory only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from peerllm.errors import UnknownRequest
from peerllm.local.accounts import RequestAccount

KEPT_REQUESTS = 128

LAST = "last"
"""Stands for the request that ended last."""

RUNNING = "running"
"""Stands for the request that began last of those under way."""

_NAMED = 3


class Ledger:
    """Accounts by request id; the oldest goes when a new one has no room."""

    def __init__(self, kept: int = KEPT_REQUESTS) -> None:
        self._kept = kept
        self._accounts: OrderedDict[str, RequestAccount] = OrderedDict()
        self._running: list[Callable[[], RequestAccount]] = []

    @contextmanager
    def following(self, account: Callable[[], RequestAccount]) -> Iterator[None]:
        """Within the block the request is under way; `account` is what can be told of it so far."""
        self._running.append(account)
        try:
            yield
        finally:
            self._running.remove(account)

    def keep(self, account: RequestAccount) -> None:
        self._accounts.pop(account.id, None)
        self._accounts[account.id] = account
        while len(self._accounts) > self._kept:
            self._accounts.popitem(last=False)

    def all(self) -> list[RequestAccount]:
        """The one that ended last comes first."""
        return list(reversed(self._accounts.values()))

    def find(self, name: str) -> RequestAccount:
        """The account with that id, or whose id alone begins so, with or without ``chatcmpl-``; or the `LAST` one,
        or the `RUNNING` one.

        Raises:
            UnknownRequest: there is none, or several; the message names what is kept.
        """
        if name in self._accounts:
            return self._accounts[name]
        if name == LAST and self._accounts:
            return next(reversed(self._accounts.values()))
        if name == RUNNING:
            return self._running_now()
        beginning = name.rpartition("-")[2]
        fitting = [
            account
            for request, account in self._accounts.items()
            if beginning and request.rpartition("-")[2].startswith(beginning)
        ]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise UnknownRequest(f"{len(fitting)} requests begin with {name!r:.80}: {_listed(fitting)}")
        raise UnknownRequest(f"no request {name!r:.80} is kept here; {self._what_is_kept()}")

    def _running_now(self) -> RequestAccount:
        if not self._running:
            raise UnknownRequest("no request is under way")
        return self._running[-1]()

    def _what_is_kept(self) -> str:
        if not self._accounts:
            return "nothing was answered since the daemon started"
        return f"there are the last {len(self._accounts)} (of at most {self._kept}): {_listed(self.all())}"


def _listed(accounts: list[RequestAccount]) -> str:
    names = [account.id for account in accounts[:_NAMED]]
    return ", ".join(names) + (", ..." if len(accounts) > _NAMED else "")
