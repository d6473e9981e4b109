"""The snippets of docs/ give what the pages say, and the pages name the files that there are."""

import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:```text\n(?P<printed>.*?)^```\n)?", re.DOTALL | re.MULTILINE)
MARK = "  # -> "
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "r1jax").rglob("*.py"))


class Block(NamedTuple):
    line: int  # of the page, where the code begins
    code: str
    printed: str | None


def blocks(page: str) -> list[Block]:
    """The python blocks of a page, each with the text block that follows at once, if any."""
    return [
        Block(page.count("\n", 0, found.start("code")) + 1, found["code"], found["printed"])
        for found in BLOCK.finditer(page)
    ]


def run_blocks(page: str) -> tuple[list[str], int]:
    """Runs a page's blocks in one namespace: (what is not as the page says, values and printed texts compared)."""
    namespace: dict[str, Any] = {"__name__": "walkthrough"}
    wrong, compared = [], 0
    for block in blocks(page):
        printed = io.StringIO()
        lines = block.code.splitlines()
        with contextlib.redirect_stdout(printed):
            for node in ast.parse(block.code).body:
                _, mark, expected = lines[(node.end_lineno or 0) - 1].partition(MARK)
                here = f"line {block.line + node.lineno - 1}"
                if not mark:
                    exec(compile(ast.Module([node], []), here, "exec"), namespace)
                    continue
                assert isinstance(node, ast.Expr), f"{here}: {MARK.strip()!r} stands after a statement"
                got = repr(eval(compile(ast.Expression(node.value), here, "eval"), namespace))
                compared += 1
                if got != expected:
                    wrong.append(f"{here}: {lines[(node.end_lineno or 0) - 1]}\n    gives {got}")
        compared += block.printed is not None
        if printed.getvalue() != (block.printed or ""):
            wrong.append(f"line {block.line}: the block prints\n{printed.getvalue()}")
    return wrong, compared


@pytest.mark.parametrize(("name", "least"), [("walkthrough.md", 50), ("corpus.md", 8)])
def test_the_snippets_give_what_the_page_says(name, least, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (DOCS / name).read_text(encoding="utf-8")
    wrong, compared = run_blocks(page)
    assert not wrong, "\n".join(wrong)
    assert compared == page.count(MARK) + page.count("```text\n") >= least
    assert not list(tmp_path.iterdir()), "the snippets keep to their own folder"


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```python\n1 + 1  # -> 3\n```\n", "gives 2"),
        ("```python\nprint(1)\n```\n```text\n2\n```\n", "prints\n1"),
        ("```python\nprint(1)\n```\n", "prints\n1"),
    ],
)
def test_a_page_that_says_otherwise_is_found_out(page, complaint):
    (wrong,), _ = run_blocks(page)
    assert complaint in wrong


def test_the_walkthrough_names_every_file_once():
    page = (DOCS / "walkthrough.md").read_text(encoding="utf-8")
    named = re.findall(r"^- `(r1jax/[\w/]+\.py)`: ", page, re.MULTILINE)
    aside = ("equivalence", "procedural", "worker_process", "__init__")  # named in running text
    assert sorted(named) == [file for file in FILES if Path(file).stem not in aside]
    assert all(page.count(f"`{file}`") == 1 for file in FILES if Path(file).stem in aside)


def test_the_table_of_the_design_names_every_file():
    page = (DOCS / "design.md").read_text(encoding="utf-8")
    named = []
    for line in page.splitlines():
        paths = re.findall(r"`([\w/]+\.py)`", line.split("|")[1]) if line.startswith("| `") else []
        folder = paths[0].rpartition("/")[0] if paths else ""
        named += [f"r1jax/{path}" if "/" in path or not folder else f"r1jax/{folder}/{path}" for path in paths]
    assert sorted(named) == [file for file in FILES if not file.endswith("__init__.py")]
