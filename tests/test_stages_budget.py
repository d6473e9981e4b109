"""Budgets of thinking: where a thought ends, what is cut, asked and prolonged; and the curves over samples, by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
import smoke_run

from r1jax.config import TaskSpec
from r1jax.data.tokenizer import Tokenizer
from r1jax.stages.budget import Budgets, check_budgets, keep_to, thought
from r1jax.stages.correctness import ANSWER
from r1jax.stages.evaluate import Evaluator, load_tasks
from r1jax.stages.graded import Graded, sample_curves
from r1jax.types import Rollouts


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(smoke_run.finished() / "base")


def test_where_a_thought_ends(tokenizer):
    before, end, after = (
        tokenizer.encode(text) for text in (" <think> 2 + 3 = 5", " </think>", " <answer> 5 </answer>")
    )
    whole = tokenizer.encode(" <think> 2 + 3 = 5 </think> <answer> 5 </answer>")
    left, through = thought(tokenizer, whole)
    assert tokenizer.decode(whole[:left]).rstrip() == " <think> 2 + 3 = 5"
    assert tokenizer.decode(whole[:through]) == " <think> 2 + 3 = 5 </think>"
    assert thought(tokenizer, before + after) is None and thought(tokenizer, []) is None
    assert thought(tokenizer, before + end)[1] == len(before + end)


class Echo:
    """Continues a text by what `says` gives in turn, and keeps what it was asked."""

    def __init__(self, tokenizer, *says):
        self.tokenizer, self.says, self.asked = tokenizer, iter(says), []

    def __call__(self, texts, room):
        self.asked.append(([self.tokenizer.decode(text) for text in texts], room))
        says = next(self.says)
        return [self.tokenizer.encode(says)[:room] for _ in texts]


def kept(tokenizer, go_on, texts, budget, extensions=0):
    budgets = Budgets((budget,), 8, extensions)
    prompts = [tokenizer.encode("Q:")] * len(texts)
    ids = [tokenizer.encode(text) for text in texts]
    done, forced = keep_to(budget, budgets, go_on, tokenizer, "r1_zero", prompts, ids)
    return [tokenizer.decode(row) for row in done], forced.tolist(), ids


def test_a_long_thought_is_cut_and_asked_for_its_answer(tokenizer):
    short, long = " <think> 5 </think> <answer> 5 </answer>", " <think> 2 + 3 = 5 + 0 = 5 </think> <answer> 7 </answer>"
    budget = thought(tokenizer, tokenizer.encode(short))[1]
    echo = Echo(tokenizer, " 4 </answer>")
    done, forced, ids = kept(tokenizer, echo, [short, long], budget)
    cut = tokenizer.decode(ids[1][:budget])
    assert done == [short, f"{cut} </think> <answer> 4 </answer>"] and forced == [False, True]
    assert echo.asked == [([f"Q:{cut} </think> <answer>"], 8)]


def test_nothing_is_sampled_where_every_thought_keeps_to_the_budget(tokenizer):
    """Nor of one that ends without a thought."""
    texts = [" <think> 5 </think> <answer> 5 </answer>", " <answer> 5 </answer>"]
    assert kept(tokenizer, Echo(tokenizer), texts, 60)[:2] == (texts, [False, False])


def test_a_short_thought_is_told_to_go_on_as_often_as_is_said(tokenizer):
    text = " <think> 5 </think> <answer> 5 </answer>"
    for says, extensions in (([" 6 </think> <answer> 6 </answer>", " 7 </think> <answer> 7 </answer>"], 2), ([], 0)):
        echo = Echo(tokenizer, *says)
        done, forced, _ = kept(tokenizer, echo, [text], 60, extensions)
        assert len(echo.asked) == extensions and forced == [False]
        if extensions:
            assert done[0].count("Wait,") == 2 and done[0].endswith(" 7 </think> <answer> 7 </answer>")
            assert done[0].count("</think>") == 1
    still_thinking = Echo(tokenizer, " 8" * 90, " 9 </answer>")
    done, forced, _ = kept(tokenizer, still_thinking, [text], 40, 1)
    assert forced == [True] and done[0].endswith(" 8 </think> <answer> 9 </answer>")


@pytest.mark.parametrize(
    ("budgets", "template", "message"),
    [
        (Budgets((16, 40), 8, 0), "r1_zero", r"a budget of 40 tokens takes \d+ with its answer; max_tokens is 48"),
        (Budgets((0, 8), 8, 0), "r1_zero", r"budgets is \[0, 8\]; expected numbers of tokens, 1 or more"),
        (Budgets((8,), 8, 0), "plain", r"template is 'plain', which knows no thought"),
    ],
)
def test_budgets_that_cannot_be_kept_are_named(tokenizer, budgets, template, message):
    with pytest.raises(ValueError, match=message):
        check_budgets(budgets, template, tokenizer, 48)


def test_pass_at_k_is_the_mean_over_all_choices_of_k():
    right = np.random.default_rng(0).random((6, 7)) < np.linspace(0, 1, 6)[:, None]
    answers = [["5"] * 7] * 6
    graded = Graded(right.astype(np.float32), None, None, answers, [], [ANSWER] * 6)
    got = sample_curves(graded, 7)["pass@k"]
    assert list(got) == ["1", "2", "4", "7"]
    for k, value in got.items():
        chosen = list(itertools.combinations(range(7), int(k)))
        assert value == pytest.approx(np.mean([[row[list(c)].any() for c in chosen] for row in right]))


def test_maj_at_k_is_the_vote_of_each_group_in_turn():
    answers = [["5", "9", "9", "5", "5"], ["1", None, "2", "2", "1"]]
    correct = np.float32([[1, 0, 0, 1, 1], [0, 0, 1, 1, 0]])
    got = sample_curves(Graded(correct, None, None, answers, [], [ANSWER] * 2), 5)["maj@k"]
    # of 1: each; of 2: (5 9) (9 5) and (1 -) (2 2), the earliest of equals; of 4: 5 9 9 5 and 1 - 2 2; of 5: all
    assert got == {"1": 5 / 10, "2": (1 + 0 + 0 + 1) / 4, "4": (1 + 1) / 2, "5": (1 + 0) / 2}


class Thinker:
    """Thinks at length to a wrong answer; asked for it at once, gives the right one."""

    def __init__(self, tokenizer, answers):
        self.tokenizer, self.answers = tokenizer, answers

    def generate(self, params, prompts, seed_B, *, max_tokens, **how):
        samples = len(seed_B) // len(prompts)
        rows = []
        for b in range(len(seed_B)):
            prompt = self.tokenizer.decode(prompts[b // samples])
            answer = next(value for question, value in self.answers.items() if f"User: {question}." in prompt)
            if prompt.endswith("Assistant:"):
                rows.append(
                    self.tokenizer.encode(" <think>" + " 1 + 1 = 2." * 6 + f" </think> <answer> {answer}1 </answer>")
                )
            else:
                assert prompt.endswith("</think> <answer>")
                rows.append(self.tokenizer.encode(f" {answer} </answer>"))
        length_B = np.array([min(len(row), max_tokens) for row in rows])
        tokens = np.zeros((len(rows), max_tokens), np.int32)
        for row, ids, n in zip(tokens, rows, length_B, strict=True):
            row[:n] = ids[:n]
        return Rollouts(None, None, tokens, length_B, None, None)


def test_figures_under_budgets_are_of_what_was_cut_and_answered(tokenizer):
    stage = smoke_run.stage("zero")
    spec = TaskSpec("arithmetic:test", {"train_size": 30, "test_size": 5})
    config = dataclasses.replace(stage.evaluation, tasks={"a": spec}, batch=2, max_tokens=200)
    (source,) = load_tasks(config, stage.data).values()
    engine = Thinker(tokenizer, {source[i]["question"]: source[i]["answer"] for i in range(len(source))})
    evaluator = Evaluator(
        config, stage.data, stage.grading, template="r1_zero", tokenizer=tokenizer, engine=engine, context=600, seed=0
    )
    figures = evaluator.curves(None, samples=3, limit=0, progress=False, budgets=Budgets((8, 150), 16, 0))
    evaluator.close()
    result = figures["arithmetic:test"]
    assert result["n"] == 5 and result["pass@1"] == 0 and result["pass@k"] == {"1": 0, "2": 0, "3": 0}
    low, high = result["budget"]
    assert (low["budget"], low["forced"], low["pass@1"], low["maj@3"]) == (8, 1.0, 1.0, 1.0)
    assert (high["budget"], high["forced"], high["pass@1"]) == (150, 0.0, 0.0)
    assert low["mean_tokens"] < high["mean_tokens"] == result["mean_tokens"]
