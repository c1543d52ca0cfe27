"""The code in a Markdown text."""

from __future__ import annotations


def code_blocks(markdown: str) -> list[str]:
    """What stands in fences, or is indented as code, first to last; the last fence may still be open."""
    from markdown_it import MarkdownIt  # 30 ms that the first paint need not wait for

    tokens = MarkdownIt().parse(markdown)
    return [token.content.rstrip("\n") for token in tokens if token.type in ("fence", "code_block")]


class CodeCopier:
    """The last block of code of an answer, then the one before it, and round again."""

    def __init__(self) -> None:
        self._copied = 0

    def restart(self) -> None:
        """There is another answer."""
        self._copied = 0

    def next(self, answer: str) -> tuple[str, str]:
        """The code to copy, "" if there is none, and what is said of it."""
        blocks = code_blocks(answer)
        if not blocks:
            return "", "there is no code in the last answer"
        place = len(blocks) - 1 - self._copied % len(blocks)
        self._copied += 1
        return blocks[place], f"code {place + 1} of {len(blocks)} is copied"
