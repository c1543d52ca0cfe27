"""All verbs and their flags. Verbs import what they need when they run, so that ``--help`` is instant."""

from __future__ import annotations

import argparse

from peerllm.cli.chat import add_chat_command
from peerllm.cli.configuration import add_config_commands
from peerllm.cli.daemon import add_daemon_commands
from peerllm.cli.demo import add_demo_command
from peerllm.cli.doctor import add_doctor_command
from peerllm.cli.env import add_env_command
from peerllm.cli.explain import add_explain_command
from peerllm.cli.ledger import add_ledger_command
from peerllm.cli.membership import add_membership_commands
from peerllm.cli.models import add_model_commands
from peerllm.cli.ps import add_ps_command
from peerllm.cli.run import add_run_command
from peerllm.cli.service import add_service_command
from peerllm.cli.setup import add_setup_command
from peerllm.cli.share import add_share_command
from peerllm.cli.simulate import add_simulate_command
from peerllm.cli.swarm import add_swarm_commands
from peerllm.cli.tray import add_tray_command
from peerllm.cli.update import add_update_command
from peerllm.cli.version import add_version_command
from peerllm.cli.web import add_web_command

_EPILOG = """\
exit codes: 0 ok, 1 failed, 2 usage or a second daemon, 3 no daemon, 4 no terminal, 5 no peers, 130 interrupted
environment: PEERLLM_HOME puts all files under one folder, PEERLLM_SECTION_FIELD overrides config.toml,
PEERLLM_KEEP_ALIVE (5m, 0, -1) is asking.keep_alive_s, PEERLLM_DEBUG=1 shows tracebacks, NO_COLOR is honoured"""


def build_parser() -> argparse.ArgumentParser:
    """Every verb sets ``run``: a function from the parsed arguments to an exit code."""
    parser = argparse.ArgumentParser(
        prog="peerllm",
        description="Run a language model that none of your machines could hold alone.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    add_daemon_commands(verbs)
    add_chat_command(verbs)
    add_run_command(verbs)
    add_ps_command(verbs)
    add_web_command(verbs)
    add_tray_command(verbs)
    add_swarm_commands(verbs)
    add_share_command(verbs)
    add_membership_commands(verbs)
    add_env_command(verbs)
    add_explain_command(verbs)
    add_ledger_command(verbs)
    add_simulate_command(verbs)
    add_model_commands(verbs)
    add_config_commands(verbs)
    add_demo_command(verbs)
    add_setup_command(verbs)
    add_service_command(verbs)
    add_update_command(verbs)
    add_doctor_command(verbs)
    add_version_command(verbs)
    return parser
