"""Where an answer stands, by hand-written cases."""

import time

import pytest

from r1jax.rewards.extraction import FORMS, extractor

CASES = {
    "boxed": {
        "so \\boxed{14}.": "14",
        "\\boxed{ \\frac{1}{2} } and more": "\\frac{1}{2}",
        "\\boxed{\\{1,2\\}}": "\\{1,2\\}",
        "<think>\\boxed{13}</think> \\boxed{14}": "14",
        "<think>a</think> <answer>\\boxed{14}</answer>": "14",
        "\\boxed{14} = \\boxed{14}": "14",
        "\\boxed{14} \\boxed{15}": None,
        "<think>\\boxed{14}</think>": None,
        "<think>\\boxed{14}": None,
        "</think><think>\\boxed{14}": None,
        "\\boxed{14": None,
        "\\boxed{\\boxed{14}}": None,
        "\\boxed{}": None,
        "\\boxed 14": None,
        "14": None,
        "\\boxed{1}" * 9: None,
    },
    "hashes": {
        "2 + 3 = 5\n#### 5": "5",
        "<think>#### 4</think>\n#### 5\n": "5",
        "####5": "5",
        "#### 5\nand more": None,
        "#### 5\n#### 5": None,
        "#### ": None,
        "5": None,
        "<think>#### 5": None,
    },
    "last_line": {
        "because\n14": "14",
        "The answer is 14": "14",
        "So, the final answer is: 14 cm": "14 cm",
        "Answer: 14\n\n": "14",
        "<think>13</think>14": "14",
        "The answering machine": "The answering machine",
        "": None,
        "<think>14": None,
        "9" * 513: None,
    },
}


@pytest.mark.parametrize(("form", "completion"), [(form, text) for form, texts in CASES.items() for text in texts])
def test_forms(form, completion):
    assert FORMS[form](completion) == CASES[form][completion]


def test_a_table_says_the_form_by_task():
    extract = extractor({"gsm8k": "hashes", "*": "boxed"}, "extraction")
    assert extract("#### 5", "gsm8k") == "5" and extract("#### 5", "math") is None
    assert extract("\\boxed{5}", "math") == "5"
    with pytest.raises(ValueError, match=r"extraction is 'hash'; .*did you mean 'hashes'"):
        extractor({"gsm8k": "hash"}, "extraction")
    with pytest.raises(ValueError, match=r"no form for the task 'math'"):
        extractor({"gsm8k": "hashes"}, "extraction")("5", "math")


def test_megabytes_take_linear_time():
    units = ["\\boxed{", "\\boxed{1}", "#### ", "####\n", "{", "}", "\\", "</think>", "<think>", "a ", "The answer is "]
    start = time.monotonic()
    for unit in units:
        for form in FORMS.values():
            form(unit * (2_000_000 // len(unit)) + "\\boxed{" + "{" * 1_000_000)
    assert time.monotonic() - start < 3
