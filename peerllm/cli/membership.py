"""``peerllm invite``, ``join``, ``leave``, ``members``, ``revoke`` and ``swarm create|list|use``."""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import TYPE_CHECKING

from peerllm.cli.environment import connect
from peerllm.cli.output import ago, day, print_json, print_table
from peerllm.errors import UsageError
from peerllm.local.membership import find_member, is_invitation

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.local.membership import Invited, KnownSwarm, Member

_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_MULTI_USES = 256


def add_commands(verbs: Subparsers) -> None:
    invite = verbs.add_parser(
        "invite",
        help="let another machine into this swarm",
        description="Print an invitation as text and as a QR code. Whoever has it can come in until it is used up or "
        "expires: pass it on as you would a key.",
    )
    how_often = invite.add_mutually_exclusive_group()
    how_often.add_argument("--uses", type=int, default=1, metavar="N", help="for so many machines (default 1)")
    how_often.add_argument("--multi", action="store_true", help=f"for up to {_MULTI_USES} machines")
    invite.add_argument("--expires", default="1h", metavar="TIME", help="for so long: 30min, 1h (default), 2d")
    invite.add_argument("--issuer", action="store_true", help="the new member may let others in, too")
    invite.add_argument("--json", action="store_true", help="as JSON, without the QR code")
    invite.set_defaults(run=_invite)

    join = verbs.add_parser(
        "join",
        help="come into a swarm by an invitation, or enter this one by a peer's address",
        description="With an invitation: become a member of its swarm and take part in it from now on. With an "
        "address: another way into the present swarm, where multicast does not reach.",
    )
    join.add_argument("way", metavar="INVITATION|HOST[:PORT]", help="what `peerllm invite` printed, or an address")
    join.set_defaults(run=_join)

    leave = verbs.add_parser(
        "leave",
        help="leave the swarm; the local API stays up",
        description="Forget the addresses to enter the swarm by and, of a swarm that was joined by invitation, the "
        "certificate: this machine goes back to the swarm home.",
    )
    leave.set_defaults(run=_leave)

    members = verbs.add_parser("members", help="who may take part in this swarm, as far as this machine knows")
    members.add_argument("--json", action="store_true", help="as JSON")
    members.set_defaults(run=_members)

    revoke = verbs.add_parser(
        "revoke",
        help="throw a member out of this swarm",
        description="Take back a member's certificates and the invitations it came by. Only a new invitation lets it "
        "in again. If it was an issuer, those it let in are out with it.",
    )
    revoke.add_argument("member", metavar="MEMBER", help="name, id, or a beginning or end of the id")
    revoke.add_argument("--yes", action="store_true", help="do not ask")
    revoke.set_defaults(run=_revoke)


def add_swarm_choices(swarm: argparse.ArgumentParser) -> None:
    """``peerllm swarm create|list|use`` beside plain ``peerllm swarm``."""
    choices = swarm.add_subparsers(metavar="create|list|use")
    create = choices.add_parser("create", help="make a private swarm and take part in it")
    create.add_argument("name", nargs="?", default="swarm", metavar="NAME", help="letters, digits and . _ -")
    create.set_defaults(run=_create)

    known = choices.add_parser("list", help="the swarms of this home")
    known.add_argument("--json", action="store_true", help="as JSON")
    known.set_defaults(run=_list)

    use = choices.add_parser("use", help="take part in another swarm of this home")
    use.add_argument("name", metavar="NAME")
    use.set_defaults(run=_use)


def _invite(arguments: argparse.Namespace) -> int:
    lifetime_s = _seconds(arguments.expires)
    uses = _MULTI_USES if arguments.multi else arguments.uses
    with connect() as client:
        invited = client.invite(lifetime_s=lifetime_s, uses=uses, may_issue=arguments.issuer)
    if arguments.json:
        print_json(invited.to_json())
    else:
        _print_invitation(invited)
    return 0


def _print_invitation(invited: Invited) -> None:
    """The token alone goes to stdout, so that it can be piped."""
    if sys.stderr.isatty():
        import segno

        segno.make(invited.token, error="l", micro=False, boost_error=False).terminal(out=sys.stderr, compact=True)
    machines = "one machine" if invited.uses == 1 else f"up to {invited.uses} machines"
    rank = ", which may let others in" if invited.may_issue else ""
    print(
        f"For {machines}{rank}, until {time.strftime('%H:%M on %Y-%m-%d', time.localtime(invited.expires_at))}, into "
        f"the swarm {invited.swarm}. On the other machine:\n  peerllm up && peerllm join INVITATION",
        file=sys.stderr,
    )
    print(invited.token)


def _join(arguments: argparse.Namespace) -> int:
    with connect() as client:
        name = client.join(arguments.way)
    if is_invitation(arguments.way):
        print(f"this machine is a member of the swarm {name} now; `peerllm members` shows the others")
    else:
        print(f"joining by {arguments.way}; `peerllm peers` shows whom that finds")
    return 0


def _leave(_: argparse.Namespace) -> int:
    with connect() as client:
        before = client.status().swarm
        after = client.leave()
    if after == before:
        print("forgot the addresses to enter by; `peerllm join HOST` adds one again")
    else:
        print(f"left the swarm {before}, and takes part in {after}")
    return 0


def _members(arguments: argparse.Namespace) -> int:
    with connect() as client:
        members = client.members()
    if arguments.json:
        print_json([member.to_json() for member in members])
        return 0
    names = {member.peer_id: member.name for member in members}
    header = ("MEMBER", "NAME", "SINCE", "UNTIL", "LET IN BY", "STATE")
    print_table(header, [_member_row(member, names) for member in members])
    return 0


def _member_row(member: Member, names: dict[str, str]) -> tuple[str, ...]:
    issuer = member.issuer if member.issuer in ("", "root") else names.get(member.issuer) or member.issuer[-8:]
    state = "revoked" if member.revoked else "online" if member.online or member.you else "not in view"
    return (
        f"{member.peer_id[-8:]}{' (you)' if member.you else ''}",
        member.name or "-",
        ago(member.since) if member.since else "-",
        day(member.expires_at),
        issuer or "-",
        f"{state}, issuer" if member.may_issue else state,
    )


def _revoke(arguments: argparse.Namespace) -> int:
    with connect() as client:
        member = find_member(client.members(), arguments.member)
        if not arguments.yes and not _confirmed(member):
            print("nobody was revoked", file=sys.stderr)
            return 1
        client.revoke(member.peer_id)
    print(f"revoked {_shown(member)}; members within reach shut it out now, the others as they hear of it")
    return 0


def _confirmed(member: Member) -> bool:
    """Ask on a terminal; elsewhere nobody could answer."""
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to be asked; --yes revokes without a question")
    issuer = " It is an issuer: those it let in are out with it." if member.may_issue else ""
    print(f"{_shown(member)} will be thrown out of the swarm.{issuer} Go on? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes")


def _shown(member: Member) -> str:
    return f"{member.name} ({member.peer_id})" if member.name else member.peer_id


def _create(arguments: argparse.Namespace) -> int:
    with connect() as client:
        swarm = client.create_swarm(arguments.name)
    print(f"made the swarm {swarm.name} ({swarm.id}), and takes part in it; `peerllm invite` lets others in")
    return 0


def _use(arguments: argparse.Namespace) -> int:
    with connect() as client:
        swarm = client.use_swarm(arguments.name)
    print(f"takes part in the swarm {swarm.name} now")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    with connect() as client:
        swarms = client.swarms()
    if arguments.json:
        print_json([swarm.to_json() for swarm in swarms])
    else:
        print_table(("SWARM", "ID", "MEMBER UNTIL", "THIS MACHINE"), [_swarm_row(swarm) for swarm in swarms])
    return 0


def _swarm_row(swarm: KnownSwarm) -> tuple[str, ...]:
    rank = "made it" if swarm.made_here else "may let others in" if swarm.may_issue else "is a member"
    return (
        f"{swarm.name}{' (in use)' if swarm.current else ''}",
        swarm.id,
        "public" if swarm.public else day(swarm.expires_at),
        "-" if swarm.public else rank,
    )


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d{1,6})\s*(s|min|m|h|d)", text.strip())
    if match is None:
        raise UsageError(f"--expires takes a time such as 30min, 1h or 2d, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]
