import dataclasses
import random
import re

import pytest

from r1jax.config import TokenizerConfig
from r1jax.data import templates
from r1jax.data.sentencepiece_model import FILE
from r1jax.data.tokenizer import StreamDecoder, Tokenizer
from r1jax.data.vocabulary import SYMBOLS

CONFIG = TokenizerConfig(vocab_size=512, train_documents=2000, max_piece_length=80, across_words=True)
ODD = [
    *" \t\n\r\0\x7f\x1b\x85\u2028\u200b\ufeff\u2581\u2585\u2047\ufffd\uffff\U0010ffff",
    *("😀", "👨‍👩‍👧", "é", "e\u0301", "中", "한", "ﬁ", "İ", "  ", "▁▁", "1", "42", "a", "the ", "<", ">"),
    *("</s>", "<s>", "<pad>", "<unk>", "<0x41>", "<0xE2>", *SYMBOLS, "</think", "Assistant:"),
]


def _documents():
    rng = random.Random(0)
    for _ in range(1500):
        a, b = rng.randint(1, 40), rng.randint(1, 40)
        question = rng.choice([f"What is {a} + {b}?", f"Calculate {a} + {b}", f"¿Cuánto es {a} + {b}?"])
        work = rng.choice([f"first {a} + {b} = {a + b}.", f"the answer is {a + b}.", f"maybe {a + b}, maybe not."])
        if rng.random() < 0.5:
            yield f"{templates.render('r1_zero', question)} <think> {work} </think> <answer> {a + b} </answer>"
        else:
            yield f"{question} {work}\nso it is {a + b}.\tend"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return Tokenizer.train(_documents(), CONFIG, folder), folder


@pytest.fixture(scope="module")
def tokenizer(trained):
    return trained[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  a  b ",
        "a\tb\n\n",
        "\u2581",
        "a\u2581 \u2581b",
        "\0",
        "</s>",
        "<pad>",
        "<unk>",
        "<0x41>",
        "🙂e\u0301中",
    ],
)
def test_awkward_texts_come_back_unchanged(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.pad_id, *tokenizer.start_ids, *tokenizer.end_ids} & set(ids)


def test_random_unicode_comes_back_unchanged_whole_and_streamed(tokenizer):
    rng = random.Random(1)
    for _ in range(4000):
        scalars = (c if c < 0xD800 else c + 0x800 for c in (rng.randrange(0x10F800) for _ in range(20)))
        text = "".join(rng.choice(ODD) if rng.random() < 0.7 else chr(next(scalars)) for _ in range(rng.randrange(14)))
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert min(ids, default=4) > 3  # never a control token
        stream = StreamDecoder(tokenizer)
        parts = [stream.push(token) for token in ids]
        assert "".join(parts) + stream.flush() == text
        if "\ufffd" not in text:
            assert not any("\ufffd" in part for part in parts)  # no half character was shown


def test_stream_holds_back_half_a_character(tokenizer):
    ids = tokenizer.encode("😀")
    assert len(ids) == 4  # no such character in the corpus: four bytes
    stream = StreamDecoder(tokenizer)
    assert [stream.push(token) for token in ids] == ["", "", "", "😀"]
    assert stream.flush() == ""
    assert stream.push(ids[0]) == "" and stream.flush() == "\ufffd"
    assert tokenizer.decode(ids[:2]) == "\ufffd"


def test_digits_stand_alone(tokenizer):
    ids = tokenizer.encode("2024 + 17")
    assert [tokenizer.decode([i]).strip() for i in ids if tokenizer.decode([i]).strip(" +")] == list("202417")
    for token in range(tokenizer.vocab_size):
        piece = tokenizer.token_bytes(token)
        assert not re.search(rb"[0-9]", piece) or re.fullmatch(rb" ?[0-9]", piece)


def test_a_fixed_phrase_is_a_few_pieces(tokenizer, tmp_path):
    prompt = templates.render("r1_zero", "What is 2 + 3?")
    assert len(tokenizer.encode(prompt)) < 60
    words = dataclasses.replace(CONFIG, across_words=False, max_piece_length=16)
    by_words = Tokenizer.train(_documents(), words, tmp_path)
    assert len(by_words.encode(prompt)) > 90
    assert not any(" " in by_words.decode([i]).strip(" ") for i in range(by_words.vocab_size))


def test_no_piece_straddles_the_end_of_a_prompt(tokenizer):
    for question in ("What is 2 + 3?", "Calculate 1 + 1"):
        prompt = templates.render("r1_zero", question)
        for completion in (" first 2 + 3 = 5.", " the answer is 5.", " maybe 5, maybe not.", " <think> 5 </think>"):
            assert tokenizer.encode(prompt + completion) == tokenizer.encode(prompt) + tokenizer.encode(completion)


def test_symbols_are_single_tokens_and_stop_ids(tokenizer):
    for symbol in SYMBOLS:
        assert tokenizer.encode(symbol) == tokenizer.stop_ids([symbol]) and len(tokenizer.encode(symbol)) == 1
    ids = tokenizer.encode("a</answer>b")
    assert tokenizer.stop_ids(["</answer>", "<think>"]) == [tokenizer.encode(s)[0] for s in ("</answer>", "<think>")]
    assert set(tokenizer.stop_ids(["</answer>"])) <= set(ids)
    assert tokenizer.stop_ids(templates.STOP["plain"]) == []
    for other in ("</s>", "User:", "", "</answer> "):
        with pytest.raises(ValueError, match="expected one of <think>"):
            tokenizer.stop_ids([other])


def test_control_and_foreign_ids(tokenizer):
    assert (tokenizer.pad_id, tokenizer.start_ids, tokenizer.eos_id, tokenizer.end_ids) == (0, [1], 2, [2])
    assert tokenizer.vocab_size <= CONFIG.vocab_size
    a = tokenizer.encode("a")
    assert tokenizer.decode([*tokenizer.start_ids, *a, tokenizer.pad_id, tokenizer.eos_id]) == "a"
    assert tokenizer.decode([*a, 3, tokenizer.vocab_size]) == "a\ufffd\ufffd"
    with pytest.raises(ValueError, match="token id is -1"):
        tokenizer.decode([-1])


def test_training_is_deterministic_and_what_is_loaded_is_what_was_saved(trained, tmp_path):
    tokenizer, folder = trained
    Tokenizer.train(_documents(), CONFIG, tmp_path / "again")
    again = (tmp_path / "again" / FILE).read_bytes()
    assert again == (folder / FILE).read_bytes()
    loaded = Tokenizer.load(folder)
    loaded.save(tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == [FILE]  # no temporary file is left
    assert (tmp_path / "copy" / FILE).read_bytes() == again
    text = "What is 2 + 3? é"
    assert loaded.encode(text) == tokenizer.encode(text) and loaded.vocab_size == tokenizer.vocab_size


def test_it_trains_on_as_many_documents_as_it_is_told(tmp_path):
    def documents():
        yield from ["aaa bbb"] * 3
        raise AssertionError("read too far")

    few = dataclasses.replace(CONFIG, train_documents=3)
    tokenizer = Tokenizer.train(documents(), few, tmp_path)
    assert tokenizer.vocab_size < CONFIG.vocab_size and tokenizer.decode(tokenizer.encode("é")) == "é"


@pytest.mark.parametrize("texts", [[], ["", ""], ["\t"]])
def test_no_text_is_an_error(texts, tmp_path):
    with pytest.raises(ValueError, match="texts holds no text"):
        Tokenizer.train(texts, CONFIG, tmp_path)
    assert not list(tmp_path.iterdir())


def test_too_small_a_vocabulary_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.vocab_size is 200"):
        Tokenizer.train(_documents(), dataclasses.replace(CONFIG, vocab_size=200), tmp_path)


def test_missing_and_corrupt_files_are_named(trained, tmp_path):
    with pytest.raises(ValueError, match=rf"{FILE} cannot be read"):
        Tokenizer.load(tmp_path)
    whole = (trained[1] / FILE).read_bytes()
    for content in (b"", b"junk", b"\0" * 100, whole[:1000], whole[:-3]):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ValueError, match=FILE):
            Tokenizer.load(tmp_path)


def test_a_model_without_the_symbols_is_refused(trained, tmp_path):
    whole = (trained[1] / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole.replace(b"<answer>", b"<answor>"))
    with pytest.raises(ValueError, match=r"lacks the pieces.*<answer>"):
        Tokenizer.load(tmp_path)


def test_a_lone_surrogate_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        tokenizer.encode("a\ud800")
