from pathlib import Path

import pytest

from peerllm.last_lines import last_lines


@pytest.mark.parametrize(("count", "lines"), [(1, ["c"]), (2, ["b", "c"]), (9, ["a", "b", "c"])])
def test_the_end_of_a_log(count: int, lines: list[str], tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("a\nb\nc\n")
    assert last_lines(file, count) == lines


def test_no_more_is_read_than_allowed_and_no_part_of_a_line_is_told(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"first line\nsecond line\nthird \xff line\n")
    assert last_lines(file, 9, most_bytes=20) == ["third \ufffd line"]


def test_no_log_has_no_lines(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "log", 5) == []
