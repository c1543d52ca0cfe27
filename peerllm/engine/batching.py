"""Which rows of which waiting sessions go into the next engine step: a decision, without threads."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

ROWS_PER_STEP = 512
"""Rows that fill every matrix kernel; more only makes the next decode step wait longer."""

ROWS_BESIDE_DECODE = 64
"""Prefill rows that share a step with decoding sessions: at most about two decode steps' worth of
delay on a CPU, where a prefill row costs some 3 to 10 times less than a decode row."""

DECODES_BESIDE_OTHERS = 4
"""Decoding sessions of one asker in a step that others wait for too: a token of theirs then takes as long
as a step of 5 rows, however many sessions the one has."""

TURN_ROWS = 144
"""Rows of one session until it is the turn of the same asker's next: a prompt's chunk is not split in vain,
and nobody's short prompt waits for the end of a long one."""


def choose_rows(
    rows_left: Sequence[int], askers: Sequence[Hashable], *, decoding: bool = False, own: Hashable = None
) -> list[int]:
    """How many rows each waiting session may put into the next step.

    Sessions with one row are decoding and go along, those of one asker at most `DECODES_BESIDE_OTHERS` at once
    where there are others. What else there is room for goes to the machine's own prompts, and is then shared evenly
    by the askers; of one asker's prefills the first goes first, so that they end one after the other instead of all
    late.

    Args:
        rows_left: of each session, in the order of their turns.
        askers: whose sessions they are, in the same order.
        decoding: are there sessions between two decode steps, which will soon wait as well?
        own: the asker that is this machine itself, whose rows wait for nobody else's.
    """
    if len(rows_left) == 1:
        return [min(rows_left[0], ROWS_BESIDE_DECODE if decoding else ROWS_PER_STEP)]
    taken = _decodes(rows_left, askers, own)
    room = ROWS_BESIDE_DECODE if decoding or 1 in taken else ROWS_PER_STEP
    wanted: dict[Hashable, int] = {}
    for rows, asker in zip(rows_left, askers, strict=True):
        if rows > 1:
            wanted[asker] = wanted.get(asker, 0) + rows
    if not wanted:
        return taken
    first = min(wanted.pop(own, 0), room)
    left = dict(zip(wanted, fair_shares(list(wanted.values()), room - first), strict=True)) | {own: first}
    for index, (rows, asker) in enumerate(zip(rows_left, askers, strict=True)):
        if rows > 1:
            taken[index] = min(rows, left[asker])
            left[asker] -= taken[index]
    return taken


def fair_shares(wanted: Sequence[int], room: int) -> list[int]:
    """The room divided so that nobody gets more than wanted, and whoever gets less has as much as anybody.

    Source: max-min fairness by water filling (Bertsekas, Gallager: Data Networks, 6.5.2).
    """
    shares = [0] * len(wanted)
    modest_first = sorted(range(len(wanted)), key=wanted.__getitem__)
    for waiting, index in zip(range(len(wanted), 0, -1), modest_first, strict=True):
        shares[index] = min(wanted[index], -(-room // waiting))
        room -= shares[index]
    return shares


def _decodes(rows_left: Sequence[int], askers: Sequence[Hashable], own: Hashable) -> list[int]:
    """1 for each session that decodes in this step."""
    if len(set(askers)) == 1:
        return [1 if rows == 1 else 0 for rows in rows_left]
    taken, going = [0] * len(rows_left), dict.fromkeys(askers, 0)
    for index, (rows, asker) in enumerate(zip(rows_left, askers, strict=True)):
        if rows == 1 and (asker == own or going[asker] < DECODES_BESIDE_OTHERS):
            going[asker] += 1
            taken[index] = 1
    return taken
