"""What CI runs, one session each; `./dev` installs what they need into `.venv` and calls them."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "imports", "tests"]

CODE = ("peerllm", "swarm", "tray", "tui", "installers", "tests", "bench")
PROSE = ("docs", "README.md", "CONTRIBUTING.md")


@nox.session
def lint(session: nox.Session) -> None:
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell", *CODE, *PROSE)


@nox.session
def types(session: nox.Session) -> None:
    session.run("pyright")


@nox.session
def imports(session: nox.Session) -> None:
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite in two processes: where daemons wait for one another, other tests compute."""
    session.run("pytest", *(session.posargs or ("--numprocesses=2", "--dist=loadfile", "--durations=40")))


@nox.session
def bench(session: nox.Session) -> None:
    name, *arguments = session.posargs or ["speed"]
    session.run("python", "-m", f"bench.{name.replace('-', '_')}", *arguments)
