"""Format reward and answer extraction, by hand-written cases."""

import time

import pytest

from r1jax.rewards.extraction import answer_block
from r1jax.rewards.format import think_answer

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


@pytest.mark.parametrize("completion", ANSWERS)
def test_extraction(completion):
    assert answer_block(completion) == ANSWERS[completion]


def test_megabytes_take_linear_time():
    hostile = ["<think>" * 500_000, "<answer>" * 500_000 + "</answer>", "<think>" + "<" * 4_000_000 + "</answer>"]
    hostile += ["<think>a</think>" * 200_000 + "<answer>1</answer>", " " * 4_000_000, "\0" * 1_000_000]
    start = time.monotonic()
    assert think_answer(hostile) == [0.0] * len(hostile)
    extracted = [answer_block(text) for text in hostile]
    assert time.monotonic() - start < 2
    assert [e is None for e in extracted] == [True, True, True, False, True, True]
