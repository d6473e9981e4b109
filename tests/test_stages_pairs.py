"""Pairs from a policy and a judge: what is compared, what is kept, and the verb's file."""

import json

import pytest
import smoke_run
import test_verbs
from test_rewards_endpoint import content, send, serving
from test_rewards_judge import fenced

from r1jax.stages import pairs


def writer(prompts, seeds):
    """Two responses a question, of which the second is better for even questions; some say nothing."""
    said = []
    for n, prompt in enumerate(prompts):
        good = (n % 2 == 1) == (int(prompt) % 2 == 0)
        said.append("<think> hm" if int(prompt) % 10 == 9 else f"<think> hm </think> {'good' if good else 'poor'} one")
    return said


def judge(prompts, seeds):
    return [f"verdict: {'A>>B' if fenced(prompt)['answer A'].startswith('good') else 'B>>A'}" for prompt in prompts]


def test_the_better_summary_is_chosen():
    made, figures = pairs.build([str(n) for n in range(20)], writer, judge, votes=4, margin=1.0, seed=0)
    assert [pair.question for pair in made] == [str(n) for n in range(20) if n % 10 != 9]
    assert all(pair.chosen == "good one" and pair.rejected == "poor one" for pair in made)
    assert figures == {"questions": 20, "compared": 18, "unparsed": 0, "failed": 0, "clear": 18, "pairs": 18}


def test_equal_responses_are_not_compared_and_an_unclear_judge_keeps_nothing():
    made, figures = pairs.build(["a"], lambda p, s: ["same"] * len(p), judge, votes=4, margin=1.0, seed=0)
    assert made == [] and figures["compared"] == 0
    unclear = pairs.build(["2"], writer, lambda p, s: ["verdict: A>B"] * len(p), votes=4, margin=1.0, seed=0)
    assert unclear[0] == [] and unclear[1]["compared"] == 1


@pytest.mark.slow
def test_the_verb_writes_what_a_reward_model_reads(tmp_path):
    """The smoke base as the writer and a server as the judge, which likes whatever comes first in the alphabet."""

    def respond(request, body, number):
        texts = fenced(body["messages"][0]["content"])
        send(request, 200, content(f"verdict: {'A>>B' if texts['answer A'] < texts['answer B'] else 'B>>A'}"))

    questions, out = tmp_path / "questions.jsonl", tmp_path / "pairs.jsonl"
    questions.write_text("".join(json.dumps({"question": f"{n} + 1", "answer": ""}) + "\n" for n in range(40)))
    with serving(respond) as (url, bodies, _):
        words = [
            f"--task=jsonl:{questions}", f"--writer={smoke_run.finished() / 'base'}", f"--judge={url}",
            "--judge_model=m", "--max_tokens=16", f"--out={out}",
        ]  # fmt: skip
        code, printed, said = test_verbs.run("r1jax.pairs", *words)
        again, _, why = test_verbs.run("r1jax.pairs", *words)
    assert code == 0, said
    figures = json.loads(printed.splitlines()[-1])
    assert figures["clear"] == figures["compared"] > 0 == figures["failed"] and len(bodies) == 4 * figures["compared"]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == figures["pairs"] and all(row["chosen"] < row["rejected"] for row in rows)
    assert all(row.keys() == {"question", "chosen", "rejected", "margin"} for row in rows)
    assert again == 2 and "which is there already" in why
