from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerllm.log import LineFormatter, close_log, configure_log


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, ("peerllm", "peerllm_swarm"))]
    before, levels = root.handlers[:], [logger.level for logger in loggers]
    root.handlers = []
    yield tmp_path / "logs" / "daemon.log"
    close_log()
    root.handlers = before
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def line_of(message: str, *arguments: object) -> str:
    record = logging.LogRecord("peerllm.x", logging.INFO, __file__, 1, message, arguments, None)
    record.created, record.msecs = 0.0, 0.0
    return LineFormatter().format(record)


@pytest.mark.parametrize(
    ("message", "tail"),
    [
        ("session opened id=%s route=0:12@ab3f", 'event="session opened" id=1 route=0:12@ab3f'),
        ("daemon stopped", 'event="daemon stopped"'),
        ("id=%s", 'event="" id=1'),
        ('said "no" to %s', "event=\"said 'no' to 1\""),
    ],
)
def test_words_then_pairs(message: str, tail: str) -> None:
    arguments = (1,) if "%s" in message else ()
    assert line_of(message, *arguments) == f"time=1970-01-01T00:00:00.000Z level=info logger=peerllm.x {tail}"


def test_stranger_s_name_forges_no_line() -> None:
    assert "\n" not in line_of("peer name=%s", "x\ntime=now level=error event=hacked\x1b[2J\u2028")


def test_file_gets_ours_and_others_warnings(log_file: Path) -> None:
    configure_log(log_file)
    logging.getLogger("peerllm.daemon").info("daemon started pid=%d", 1)
    logging.getLogger("httpx").info("POST /v1/chat/completions")
    logging.getLogger("httpx").warning("odd")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("peerllm").exception("hop failed")
    close_log()

    lines = log_file.read_text().splitlines()
    assert [line.partition("event=")[2] for line in lines[:3]] == ['"daemon started" pid=1', '"odd"', '"hop failed"']
    assert all(line.startswith("  | ") for line in lines[3:])
    assert lines[-1] == "  | ValueError: why"


def test_configuring_again_leaves_one_line_per_event(log_file: Path) -> None:
    configure_log(log_file)
    configure_log(log_file)
    logging.getLogger("peerllm").warning("once")
    close_log()
    assert log_file.read_text().count("once") == 1
