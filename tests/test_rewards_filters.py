"""Filters, each on text that it must pass and text that it must turn down."""

import pytest

from r1jax.rewards.filters import FILTERS, check_clean, clean, objection

ENGLISH = "First we add the two numbers, and then we check the result once more.</think> The sum is 14."
SPANISH = "First we add, y luego comprobamos el resultado otra vez desde el final.</think> The sum is 14."
LONG = "word " * 301
COLUMNS = {"language": "en", "completion_ids": [1] * 10}


@pytest.mark.parametrize(
    ("name", "arguments", "good", "bad"),
    [
        ("mixed_language", {}, ENGLISH, SPANISH),
        ("mixed_language", {"minimum": 0.2}, SPANISH, "y luego comprobamos el resultado otra vez"),
        ("mixed_language", {}, "2 + 3 = 5", "因此我们得到 five"),
        ("long_paragraphs", {}, "word " * 300 + "\n\n" + "word " * 300, "word " * 200 + "\n" + "word " * 101),
        ("long_paragraphs", {"maximum": 2}, "a b\n\nc d\n \ne", "a b c"),
        ("code_blocks", {}, "a ``` in a line and `code`", "so\n  ```python\nx = 1\n```"),
        ("repetitive", {"ngram": 2}, ENGLISH, "and so on " * 20),
        ("too_long", {"max_length": 11}, ENGLISH, None),
        ("too_long", {"max_length": 10}, None, ENGLISH),
    ],
)
def test_filter(name, arguments, good, bad):
    if good is not None:
        assert FILTERS[name](good, **{**COLUMNS, **arguments}) is None
    if bad is not None:
        assert FILTERS[name](bad, **{**COLUMNS, **arguments})


def test_objection_names_the_first_reason():
    filters = {"mixed_language": {}, "code_blocks": {}, "long_paragraphs": {"maximum": 300}}
    assert objection(ENGLISH, filters, COLUMNS) is None
    assert objection(SPANISH + "\n```\n", filters, COLUMNS).startswith("mixed language: 0.")
    assert objection(ENGLISH + "\n```\n" + LONG, filters, COLUMNS) == "code block"
    assert objection(ENGLISH + LONG, filters, COLUMNS).startswith("over-long paragraph: 3")


def test_as_a_reward():
    filters = {"mixed_language": {}, "code_blocks": {}}
    completions = [ENGLISH, SPANISH, "```\n", "y luego comprobamos el resultado"]
    languages = ["en", "en", "en", "es"]
    assert clean(completions=completions, filters=filters, language=languages, prompts=[""] * 4) == [1, 0, 0, 1]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no filter 'code'; expected some of mixed_language, "):
        check_clean({"code": {}})
    with pytest.raises(ValueError, match="no filter 'code'"):
        objection(ENGLISH, {"code": {}}, COLUMNS)
    with pytest.raises(ValueError, match="language 'xx'"):
        objection(ENGLISH, {"mixed_language": {}}, {"language": "xx"})
    assert check_clean({name: {} for name in FILTERS}) == []
