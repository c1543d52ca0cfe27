"""``peerllm simulate``: what a swarm would do, be it made up or the one this machine is in."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from peerllm.cli.environment import connect, locations
from peerllm.cli.output import print_json, print_table
from peerllm.cli.simulation_report import Output, compare, show
from peerllm.errors import ModelError, PeerllmError, UsageError

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.model.spec import ModelSpec
    from peerllm.simulating.live import LiveSwarm
    from peerllm.simulating.what_if import Change
    from peerllm_swarm.simulation.scenario import Model, Scenario

PART_AT = 0.25
"""A change happens after this part of the time, unless said: the swarm has settled by then."""


def add_commands(verbs: Subparsers) -> None:
    simulate = verbs.add_parser(
        "simulate",
        help="what a swarm would do: a scenario, or this one with a peer more or less",
        description="Simulate a packaged scenario, one of your own, or the swarm this machine is in.",
    )
    simulate.set_defaults(run=_simulate)
    simulate.add_argument("scenario", metavar="SCENARIO", nargs="?", help="name (see --list) or path of a TOML file")
    simulate.add_argument("--list", action="store_true", help="the scenarios that come with peerllm")
    simulate.add_argument("--live", action="store_true", help="the swarm of the running daemon instead of a scenario")
    simulate.add_argument("--seed", type=int, metavar="N", help="other chances; the same seed gives the same result")
    simulate.add_argument("--duration", type=float, metavar="S", help="simulated seconds")
    simulate.add_argument("--save", metavar="FILE", type=Path, help="write what is simulated as a scenario")
    simulate.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    simulate.add_argument("--plots", metavar="DIR", type=Path, help="draw coverage, latency, blocks and throughput")
    simulate.add_argument("--format", choices=("png", "svg"), default="png", help="of the plots")
    changes = simulate.add_argument_group("what if", "both with and without; each may be given several times")
    changes.add_argument("--leaves", action="append", default=[], metavar="PEER[:N]", help="a peer, or N of a group")
    changes.add_argument(
        "--joins",
        action="append",
        default=[],
        metavar="MACHINE",
        help="memory=16GiB,block_ms=12; a number of blocks; or a group to have one more of",
    )
    changes.add_argument(
        "--wants", action="append", default=[], metavar="MODEL", help="another model is asked for; MODEL,rate_per_s=0.1"
    )
    changes.add_argument("--at", type=float, metavar="S", help="when, in simulated seconds; else after a quarter")


def _simulate(arguments: argparse.Namespace) -> int:
    with _errors_of_this_program():
        if arguments.list:
            return _list(as_json=arguments.json)
        if bool(arguments.scenario) == arguments.live:
            raise UsageError("give either a SCENARIO or --live; `peerllm simulate --list` shows the packaged ones")
        if arguments.plots:
            from peerllm.simulating.plots import require_matplotlib

            require_matplotlib()
        live, specs = _live(arguments) if arguments.live else (None, {})
        scenario = _scenario(arguments, live)
        output = Output(arguments.json, arguments.plots, arguments.format)
        changes, at_s = _changes(arguments, scenario, specs), _when(arguments, scenario)
        if arguments.save:
            _save(scenario, arguments.save, live)
        if changes:
            return compare(scenario, changes, at_s, output)
        return show(scenario, output, live.measured_tps if live else None)


@contextmanager
def _errors_of_this_program() -> Generator[None]:
    """What the simulator refuses becomes the line and the exit code that all verbs have."""
    if find_spec("numpy") is None:
        raise PeerllmError("simulating needs numpy, which is not installed: pip install 'peerllm[node]'")
    from peerllm_swarm.errors import SwarmError
    from peerllm_swarm.simulation.checked import BadScenario

    try:
        yield
    except BadScenario as wrong:
        raise UsageError(str(wrong)) from wrong
    except SwarmError as refused:
        raise PeerllmError(str(refused)) from refused


def _list(*, as_json: bool) -> int:
    from peerllm.simulating.figures import seconds
    from peerllm_swarm.simulation.scenario import load, packaged

    scenarios = [load(name) for name in packaged()]
    counts = [sum(group.count for group in scenario.peers) for scenario in scenarios]
    if as_json:
        keys = ("name", "about", "duration_s", "seed")
        rows = zip(scenarios, counts, strict=True)
        print_json([{**{key: getattr(each, key) for key in keys}, "peers": count} for each, count in rows])
    else:
        print_table(
            ("SCENARIO", "PEERS", "TIME", "ABOUT"),
            [
                (each.name, str(count), seconds(each.duration_s), each.about)
                for each, count in zip(scenarios, counts, strict=True)
            ],
        )
    return 0


def _live(arguments: argparse.Namespace) -> tuple[LiveSwarm, dict[str, ModelSpec]]:
    """The daemon's swarm, and the models whose sizes are known on this disk."""
    from peerllm.simulating.live import CHAT_S, live_swarm

    with connect() as client:
        seen, accounts = client.records(), client.requests()
        models_dir = str(client.config().get("models", {}).get("dir", ""))
    specs = _specs(Path(models_dir).expanduser() if models_dir else locations().models_dir)
    live = live_swarm(seen, specs, accounts, duration_s=arguments.duration or CHAT_S)
    for note in live.notes:
        print(f"note: {note}", file=sys.stderr)
    return live, specs


def _specs(folder: Path) -> dict[str, ModelSpec]:
    from peerllm.model.store import ModelStore

    return {listed.spec.name: listed.spec for listed in ModelStore(folder, offline=True).list()}


def _scenario(arguments: argparse.Namespace, live: LiveSwarm | None) -> Scenario:
    from peerllm_swarm.simulation.scenario import load

    scenario = live.scenario if live else load(arguments.scenario)
    given = {"seed": arguments.seed, "duration_s": arguments.duration}
    return replace(scenario, **{name: value for name, value in given.items() if value is not None})


def _changes(arguments: argparse.Namespace, scenario: Scenario, specs: dict[str, ModelSpec]) -> list[Change]:
    from peerllm.simulating.what_if_flags import parse_joins, parse_leaves, parse_wants

    return [
        *(parse_leaves(text, scenario) for text in arguments.leaves),
        *(parse_joins(text, scenario, number) for number, text in enumerate(arguments.joins, start=1)),
        *(parse_wants(text, scenario, lambda name: _find_model(name, specs)) for text in arguments.wants),
    ]


def _find_model(name: str, specs: dict[str, ModelSpec]) -> Model:
    from peerllm.model.store import ModelStore
    from peerllm.simulating.live import model_of

    spec = specs.get(name)
    try:
        spec = spec or ModelStore(locations().models_dir, offline=True).describe(name)
    except ModelError as error:
        raise UsageError(
            f"the sizes of {name} are unknown here; say them: --wants {name},blocks=32,block_gb=0.14 ({error})"
        ) from error
    return model_of(name, spec.blocks, spec)


def _when(arguments: argparse.Namespace, scenario: Scenario) -> float:
    at_s = scenario.duration_s * PART_AT if arguments.at is None else arguments.at
    if not 0 <= at_s < scenario.duration_s:
        raise UsageError(f"--at {at_s:g}: the simulated time goes from 0 to {scenario.duration_s:g} s")
    return at_s


def _save(scenario: Scenario, file: Path, live: LiveSwarm | None) -> None:
    from peerllm.simulating.scenario_toml import to_toml

    comments = [f"The swarm on {time.strftime('%Y-%m-%d %H:%M')}: {scenario.about}", *live.notes] if live else []
    file.write_text(to_toml(scenario, comments), encoding="utf-8")
    print(f"saved as {file}", file=sys.stderr)
