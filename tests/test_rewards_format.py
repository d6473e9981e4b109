"""Format reward and answer extraction, by hand-written cases."""

import time

import pytest

from r1jax.rewards.extraction import answer_block
from r1jax.rewards.format import readable, tag_count, think_answer

GOOD = "<think> 3*4=12 </think> <answer> 14 </answer>"

FORMS = {
    GOOD: 1.0,
    "\n <think>a</think>\n\n<answer>b</answer> \n": 1.0,
    "<answer> 14 </answer>": 0.0,
    "<think>a</think>": 0.0,
    "": 0.0,
    "14": 0.0,
    GOOD + " and so on": 0.0,
    "So: " + GOOD: 0.0,
    GOOD + GOOD: 0.0,
    "<think>a</think> hm <answer>b</answer>": 0.0,
    "<think> </think> <answer>b</answer>": 0.0,
    "<think>a</think> <answer>\n</answer>": 0.0,
    "<think>a<think>b</think></think> <answer>c</answer>": 0.0,
    "<think>a</think></think> <answer>c</answer>": 0.0,
    "<think>a <answer>b</answer></think> <answer>c</answer>": 0.0,
    "<think>a</think> <answer>b</answer><answer>c</answer>": 0.0,
    "<think>a <answer>b</think> c</answer>": 0.0,
    "<answer>b</answer> <think>a</think>": 0.0,
    "<answer><think>a</think>b</answer>": 0.0,
    "<think>a</answer>": 0.0,
    "<think>a</think> <answer>b</answer": 0.0,
    "<THINK>a</THINK> <ANSWER>b</ANSWER>": 0.0,
}

ANSWERS = {
    GOOD: "14",
    "<answer>14</answer>\n": "14",
    "thinking aloud <answer> 14 </answer>": "14",
    "thought without its opening tag </think> <answer>14</answer>": "14",
    "<think>no</think><think>yes</think><answer>14</answer>": "14",
    "14": None,
    "": None,
    "<answer></answer>": None,
    "<answer> \n </answer>": None,
    "<answer>14</answer> or 15": None,
    "<answer>14</answer><answer>15</answer>": None,
    "<answer>14<answer>15</answer>": None,
    "<answer>14</answer>15</answer>": None,
    "<think> <answer>14</answer>": None,
    "<think> <answer>14</answer> </think>": None,
    "<think>a</think><think><answer>14</answer>": None,
    "<answer><think>a</think>14</answer>": None,
    "</answer>14<answer>": None,
}


@pytest.mark.parametrize("completion", FORMS)
def test_form(completion):
    assert think_answer(completions=[completion], prompts=[""], task=["any"]) == [FORMS[completion]]


READABLE = {
    "<think>3*4=12</think>The answer is 14.": 1.0,
    "\n<think>\na\n</think>\n\n**14**\n": 1.0,
    "a</think>14": 0.5,
    "so <think>a</think>14": 0.5,
    "<think> </think>14": 0.5,
    "<think>a<think>b</think>14": 0.5,
    "<think>a</think>": 0.0,
    "<think>a</think> \n": 0.0,
    "<think>a": 0.0,
    "14": 0.0,
    "": 0.0,
    "<think>a</think>14</think>15": 0.0,
    "<think>a</think>14<think>b": 0.0,
}


@pytest.mark.parametrize("completion", READABLE)
def test_readable_form(completion):
    assert readable([completion], partial=0.5, task=["any"]) == [READABLE[completion]]
    assert readable([completion]) == [float(READABLE[completion] == 1)]


def test_readable_form_with_the_papers_one_token():
    token = "|special_token|"
    texts = [f"{token}a{token}b", f"{token}a", f"a{token}b", f"{token}{token}b", f"{token}a{token}b{token}c", "b"]
    assert readable(texts, opening=token, closing=token) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="two special tokens"):
        readable(texts, opening=" ")


def test_tag_counts_and_part_marks():
    texts = [GOOD, "<think>a</think>", "<answer>b</answer><answer>", "</think></answer>", "", GOOD + "!", "<think>" * 2]
    assert tag_count(texts, task=["any"] * 7) == [1.0, 0.5, 0.25, 0.5, 0.0, 1.0, 0.0]
    assert think_answer(texts, partial=0.4) == pytest.approx([1.0, 0.2, 0.1, 0.2, 0.0, 0.4, 0.0])


@pytest.mark.parametrize("completion", ANSWERS)
def test_extraction(completion):
    assert answer_block(completion) == ANSWERS[completion]


def test_megabytes_take_linear_time():
    hostile = ["<think>" * 500_000, "<answer>" * 500_000 + "</answer>", "<think>" + "<" * 4_000_000 + "</answer>"]
    hostile += ["<think>a</think>" * 200_000 + "<answer>1</answer>", " " * 4_000_000, "\0" * 1_000_000]
    start = time.monotonic()
    assert think_answer(hostile) == readable(hostile) == [0.0] * len(hostile)
    extracted = [answer_block(text) for text in hostile]
    assert time.monotonic() - start < 2
    assert [e is None for e in extracted] == [True, True, True, False, True, True]
