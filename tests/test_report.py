"""The report is one file, needs no network, and escapes what a model wrote."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from configs.models.tiny import get_config
from r1jax.config import PolicyConfig
from r1jax.data import templates
from r1jax.models.policy import parameter_count
from r1jax.report import read_stages, write_report
from r1jax.report_html import mark

HOSTILE = "</span></p><script>alert(1)</script><think> a < b & c </think> <answer> 14 </answer> \ud800"


def stage(workdir: Path, steps: int = 3, **config) -> Path:
    workdir.mkdir(parents=True)
    rows = [{"step": s, "reward/mean": s / 10, "reward/accuracy/mean": 0.5, "loss": None} for s in range(1, steps + 1)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sample = {"prompt": HOSTILE, "completion": HOSTILE, "reward": 1.1, "rewards": {"accuracy": 1.0}, "advantage": -0.25}
    lines = [json.dumps({"step": s} | sample) + "\n" for s in (1, 2, steps)]
    (workdir / "samples.jsonl").write_text("".join(lines))
    evaluations = ({"step": s, "task": "a:test", "n": 5, "pass@1": s / 4, "pass@4": 0.5} for s in (0, 3))
    (workdir / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluations))
    (workdir / "result.json").write_text('{"a:test": {"n": 5, "pass@1": 0.914, "mean_tokens": 51.5}}')
    (workdir / "config.json").write_text(json.dumps({"stage": "rl", "seed": 7, "steps": 9} | config))
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


def pipeline(run: Path) -> Path:
    """A base and two stages of RL, which were asked one question in common, and a stage that made data."""
    zero = {"template": "r1_zero", "init_from": "base", "data": {"sources": {"a": {"name": "arithmetic", "weight": 3}}}}
    for name, config in {
        "base": {"stage": "sft"},
        "zero": zero,
        "rl": {"template": "plain", "init_from": "zero"},
    }.items():
        stage(run / name, **config)
    rows = [{"step": s, "reward/language/mean": 0.5, "completion/mean_length": 10.0 * s} for s in (1, 2, 3)]
    (run / "rl" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"zero": templates.render("r1_zero", "What is 1 + 1?"), "rl": "What is 1 + 1?"}
    for name, prompt in asked.items():
        lines = [{"step": s, "prompt": prompt, "completion": f"{name} at {s}", "reward": 1.0} for s in (1, 3)]
        (run / name / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    made = stage(run / "made", stage="cold_start", ways={"a": {"init_from": "zero"}, "b": {"init_from": "base"}})
    for name in ("base", "made"):
        (run / name / "samples.jsonl").write_text("")
    counts = {"n": 200, "kept": 50, "dropped/too_long": 100, "dropped/mixed_language": 50}
    (made / "result.json").write_text(json.dumps({"sums": counts}))
    (run / "result.json").write_text(json.dumps({name: {} for name in ("base", "zero", "made", "rl")}))
    return run


def test_stages_stand_side_by_side(tmp_path):
    page = write_report([pipeline(tmp_path / "run")]).read_text(encoding="utf-8")
    Tags(page)
    first = page[: page.index("<section")]
    for title in ("Accuracy, stage by stage: a:test", "Completion length (tokens), stage after stage"):
        assert first.count(f"<figcaption>{title}</figcaption>") == 1
    assert first.count("<figcaption>Language consistency, stage after stage</figcaption>") == 1
    assert first.count(">91<") == 3  # one bar of 91% for each stage that was evaluated
    assert "<td>zero</td><td>rl</td><td>base</td><td>r1_zero</td><td>arithmetic</td>" in first
    assert (
        "<td>base</td><td>sft</td><td>scratch</td>" in first
        and "<td>cold_start</td><td>zero, base</td>" in first
        and "<td class=n>3 of 9</td>" in first
    )


def test_what_was_rejected_and_why(tmp_path):
    page = write_report([pipeline(tmp_path / "run")]).read_text(encoding="utf-8")
    rows = page[page.index("Kept and rejected") :]
    for what, count, width in (("sampled", 200, "12.00"), ("dropped: too long", 100, "6.00"), ("kept", 50, "3.00")):
        row = f"<td>{what}</td><td><span class=bar style='width:{width}rem'></span></td><td class=n>{count}</td>"
        assert row in rows


def test_answers_to_a_question_that_stages_have_in_common(tmp_path):
    page = write_report([pipeline(tmp_path / "run")]).read_text(encoding="utf-8")
    same = page[page.index("The same questions") : page.index("<section")]
    assert "<td>What is 1 + 1?</td><td><span class=out>zero at 3</span>" in same
    assert "<span class=out>rl at 3</span>" in same and "at 1</span>" not in same
    assert "<th>question</th><th>zero</th><th>rl</th>" in same  # the base logs no samples of it


def test_parameters_are_counted_from_the_config(tmp_path):
    policy = get_config().to_dict()
    page = write_report([stage(tmp_path / "zero", policy=policy)]).read_text(encoding="utf-8")
    total, active = parameter_count(PolicyConfig(**policy))
    assert f"{total / 1e6:.4g}M</td><td class=n>{active / 1e3:.4g}k" in page
    del policy["width"]  # a config of another release
    page = write_report([stage(tmp_path / "older", policy=policy)]).read_text(encoding="utf-8")
    assert "<td class=n>–</td><td class=n>–</td>" in page


def test_several_runs_on_one_page(tmp_path):
    page = write_report([pipeline(tmp_path / "one"), stage(tmp_path / "two")]).read_text(encoding="utf-8")
    Tags(page)
    assert page.count("<section") == 5 and "<h1>one · two</h1>" in page


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
