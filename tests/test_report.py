"""The report is one file, needs no network, and escapes what a model wrote."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from r1jax.report import mark, read_stages, write_report

HOSTILE = "</span></p><script>alert(1)</script><think> a < b & c </think> <answer> 14 </answer> \ud800"


def stage(workdir: Path, steps: int = 3, **config) -> Path:
    workdir.mkdir(parents=True)
    rows = [{"step": s, "reward/mean": s / 10, "reward/accuracy/mean": 0.5, "loss": None} for s in range(1, steps + 1)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sample = {"prompt": HOSTILE, "completion": HOSTILE, "reward": 1.1, "rewards": {"accuracy": 1.0}, "advantage": -0.25}
    lines = [json.dumps({"step": s} | sample) + "\n" for s in (1, 2, steps)]
    (workdir / "samples.jsonl").write_text("".join(lines))
    (workdir / "evaluations.jsonl").write_text('{"step": 0, "task": "a:test", "n": 5, "pass@1": 0.25, "pass@4": 0.5}\n')
    (workdir / "result.json").write_text('{"a:test": {"n": 5, "pass@1": 0.914, "mean_tokens": 51.5}}')
    (workdir / "config.json").write_text(json.dumps({"stage": "rl", "seed": 7} | config))
    return workdir


class Tags(HTMLParser):
    """Collects tags and addresses, and checks that those that must close do, in order."""

    def __init__(self, page: str):
        super().__init__()
        self.seen, self.open, self.addresses = [], [], []
        self.feed(page)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v and not v.startswith("#")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_no_network(tmp_path):
    path = write_report([stage(tmp_path / "zero")])
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "zero" / "report.html"
    tags = Tags(page)
    assert tags.addresses == [] and "@import" not in page
    assert tags.seen.count("svg") == 2  # evaluation and reward; the loss is null throughout
    assert tags.seen.count("article") == 2  # first and last step; step 2 is left out
    for text in ("91.4%", "51.5", "advantage -0.25", "accuracy 1", "step 1", "step 3"):
        assert text in page


def test_model_text_is_escaped(tmp_path):
    page = write_report([stage(tmp_path / "zero", template=HOSTILE)]).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    Tags(page)


def test_mark_colours_thinking_and_answer():
    assert mark("<think>a<b</think>") == '<span class="think"><i>&lt;think&gt;</i>a&lt;b<i>&lt;/think&gt;</i></span>'
    assert mark("<answer>1").endswith("1</span>")
    assert mark("x</answer>") == "x<i>&lt;/answer&gt;</i>"
    assert mark("<b>") == "&lt;b&gt;"
    long = mark("<think>" * 100_000)
    assert long.count("<span") == long.count("</span>") and len(long) < 100_000


def test_pipeline_sections_stand_in_the_order_they_ran(tmp_path):
    run = tmp_path / "run"
    for name in ("zero", "again", "base"):
        stage(run / name, 80)
    os.utime(run / "zero" / "metrics.jsonl", (1, 1))
    (run / "notes").mkdir()
    assert read_stages(run)[0].name == "zero"
    (run / "result.json").write_text('{"base": {}, "zero": {}}')
    assert [s.name for s in read_stages(run)] == ["base", "zero", "again"]
    page = write_report([run]).read_text(encoding="utf-8")
    assert page.index('<section id="s0"><h2>base') < page.index('<section id="s1"><h2>zero')


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_report([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no run"):
        write_report([tmp_path / "empty"])
    workdir = stage(tmp_path / "zero")
    (workdir / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is not JSON"):
        write_report([workdir])
    assert not (workdir / "report.html").exists()


def test_verb(tmp_path):
    workdir, out = stage(tmp_path / "zero"), tmp_path / "page.html"
    command = [sys.executable, "-m", "r1jax.report", str(workdir), f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"report": str(out)}
    assert out.exists()
