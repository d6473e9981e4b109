"""Parts of the report as HTML: text, numbers, samples and the style sheet. What a model wrote is always escaped."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

SHOWN_CHARACTERS = 4000
PROMPT_TAIL = 120  # characters: templates open alike, the question stands at the end


def escaped(value: Any) -> str:
    """Lone surrogates, which UTF-8 cannot hold, become question marks."""
    return html.escape(str(value)).encode("utf-8", "replace").decode("utf-8")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any) -> str:
    if not is_number(value):
        return escaped(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def measure(name: str, value: Any) -> str:
    """Rates are shown in per cent."""
    rate = re.match(r"(pass|maj)@|(format|accuracy|forced)$", name) and is_number(value)
    return f"{100 * value:.1f}%" if rate else "" if value is None else number(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    """A table of cells that are HTML already; the first `texts` columns are set to the left, the others are figures."""

    def line(cells: Sequence[str], tag: str) -> str:
        parts = (f"<{tag}{' class=n' if i >= texts else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(parts)}</tr>"

    return f"<table>{line([escaped(h) for h in head], 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def figure(title: str, svg: str, columns: int = 1) -> str:
    """`columns`: of the page's three."""
    return f"<figure class=c{columns}><figcaption>{escaped(title)}</figcaption>{svg}</figure>"


def sample(row: dict[str, Any]) -> str:
    rewards = row.get("rewards")
    by_name = rewards if isinstance(rewards, dict) else {}
    named: dict[str, Any] = {"reward": row.get("reward"), **by_name, "advantage": row.get("advantage")}
    chips = "".join(
        f"<span class='chip {'good' if value > 0 else 'bad' if value < 0 else ''}'>{escaped(key)} {value:.3g}</span>"
        for key, value in named.items()
        if is_number(value)
    )
    prompt, completion = str(row.get("prompt", "")), mark(row.get("completion", ""))
    tail = escaped(prompt if len(prompt) <= PROMPT_TAIL else "…" + prompt[-PROMPT_TAIL:])
    return (
        f"<article><p class=prompt title='{escaped(clipped(prompt))}'>{tail}</p>"
        f"<p class=out>{completion}</p>{chips}</article>"
    )


def mark(completion: Any) -> str:
    """A completion as HTML: what stands between think or answer tags is coloured; a tag left open runs on."""
    parts, open_tags = [], ""
    for piece in re.split(r"(</?(?:think|answer)>)", clipped(completion)):
        tag = re.fullmatch(r"</?(think|answer)>", piece)
        if tag and not piece.startswith("</"):
            parts.append(f'<span class="{tag[1]}">')
            open_tags += "x"
        parts.append(f"<i>{escaped(piece)}</i>" if tag else escaped(piece))
        if tag and piece.startswith("</") and open_tags:
            parts.append("</span>")
            open_tags = open_tags[1:]
    return "".join(parts) + "</span>" * len(open_tags)


def clipped(text: Any, most: int = SHOWN_CHARACTERS) -> str:
    text = str(text)
    return text if len(text) <= most else text[:most] + f"… ({len(text)} characters)"


CSS = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1f2430;--soft:#667085;--line:#d9dee7;--card:#f6f8fb;
--think:#e8f0fe;--answer:#dcf5e7;--good:#15803d;--bad:#be123c}
@media(prefers-color-scheme:dark){:root{--bg:#12151c;--fg:#e6e9ef;--soft:#98a2b3;--line:#2c3340;--card:#1a1f29;
--think:#1c2c4a;--answer:#123a28;--good:#4ade80;--bad:#fb7185}}
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;max-width:1280px;margin:2rem auto;
padding:0 1.5rem}h1{font-size:1.7rem}h2{margin-top:2.2rem;border-bottom:1px solid var(--line);padding-bottom:.3rem}
h4{margin:.4rem 0;color:var(--soft)}a{color:#3b82f6}.facts span{margin-right:1.4rem;color:var(--soft)}
.facts b{color:var(--fg);font-weight:600}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);text-align:left}.n{text-align:right}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(360px,1fr));gap:1rem;margin:1rem 0}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.6rem}
figcaption{font-weight:600;font-size:.9rem}svg{width:100%;height:auto}
.samples{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1.2rem}
article{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem;margin-bottom:.8rem}
.prompt,.out{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0 .5rem}
.prompt{color:var(--soft);font-size:.82rem}
.think,.answer{border-radius:4px;padding:.1rem .2rem;background:var(--think)}.answer{background:var(--answer)}
i{font-style:normal;color:var(--soft);font-size:.85em}.chip{display:inline-block;border:1px solid var(--line);
border-radius:99px;padding:0 .6rem;margin-right:.4rem;font-size:.8rem}.good{color:var(--good)}.bad{color:var(--bad)}
.bar{display:inline-block;height:.7rem;background:#3b82f6;border-radius:3px}.wide{overflow-x:auto}
.c3{grid-column:1/-1}@media(min-width:800px){.c2{grid-column:span 2}}
.soft{color:var(--soft)}.results th,.results td{padding:.25rem .7rem .25rem 0}
.results .first,.task{border-left:1px solid var(--line);padding-left:.7rem!important}
summary{cursor:pointer}.answers{width:100%;margin:.4rem 0 1rem}.answers td{vertical-align:top}
.answers td:first-child{white-space:nowrap;color:var(--soft)}.answers .n{white-space:nowrap;font-size:.82rem}
.example{display:block;text-align:left;color:var(--soft);font-size:.82rem;overflow-wrap:anywhere}
details{margin:.8rem 0}pre{overflow:auto;background:var(--card);padding:1rem;border-radius:8px;font-size:.8rem}
"""
