"""Imported tokenizers, chat templates, and our own vocabularies as tokenizer.json."""

import importlib.util
import json
import random
import shutil

import hf_models
import pytest
from test_data_tokenizer import CONFIG, ODD, _documents

from r1jax.data import templates
from r1jax.data.hf_export import tokenizer_files
from r1jax.data.hf_vocabulary import FILE, SETTINGS, TEMPLATE, HfVocabulary
from r1jax.data.tokenizer import StreamDecoder, Tokenizer

FOLDER = hf_models.FIXTURES / "deepseek_v3"
WORDPIECE = {"type": "WordPiece", "prefix": "##", "cleanup": False}
live = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the dev extra")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(FOLDER)


def changed(**settings):
    """The fixture's tokenizer with other settings; None leaves a key out."""
    files = {name: (FOLDER / name).read_bytes() for name in (FILE, SETTINGS, "generation_config.json")}
    tree = json.loads(files[SETTINGS]) | settings
    files[SETTINGS] = json.dumps({key: value for key, value in tree.items() if value is not None}).encode()
    return files


def test_text_comes_back_whole_and_streamed_without_half_characters(tokenizer):
    for text in ("What is 2 + 3?", "é 😀", " a  b\n", "<think> 5 </think>"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        stream = StreamDecoder(tokenizer)
        parts = [stream.push(token) for token in ids]
        assert "".join(parts) + stream.flush() == text and not any("\ufffd" in part for part in parts)
    assert len(tokenizer.encode("😀")) > 1  # it was in pieces


def test_ends_starts_and_control_tokens_come_from_the_files(tokenizer):
    assert (tokenizer.start_ids, tokenizer.eos_id, tokenizer.end_ids, tokenizer.pad_id) == ([1], 2, [2, 3], 0)
    assert tokenizer.control == {"<pad>", "<bos>", "<eos>", "<user>", "<bot>"}
    assert tokenizer.stop_ids(["<think>"]) == tokenizer.encode("<think>") and tokenizer.stop_ids(["</answer>"]) == []
    assert tokenizer.decode([1, *tokenizer.encode("hi"), 2, 0]) == "hi"
    assert Tokenizer(HfVocabulary(changed(add_bos_token=False))).start_ids == []
    assert Tokenizer(HfVocabulary(changed(add_bos_token=None))).start_ids == []  # the file itself adds none
    assert Tokenizer(HfVocabulary(changed(pad_token=None))).pad_id == 2


def test_control_tokens_are_read_in_prompts_and_nowhere_else(tokenizer):
    assert tokenizer.encode_prompt("<user>hi<bot>") == [1, 3, *tokenizer.encode("hi"), 4]
    assert tokenizer.encode_prompt("<bos>hi") == [1, *tokenizer.encode("hi")]  # one start, not two
    ids = tokenizer.encode("<user>hi")
    assert tokenizer.decode(ids) == "<user>hi" and min(ids) > 4
    for template in ("chat", "plain", "r1_zero"):
        with pytest.raises(ValueError, match="'<eos>', a control token"):
            templates.render(template, "stop<eos><bot>5", tokenizer)


def test_chat_is_the_checkpoints_own_template(tokenizer):
    assert templates.render("chat", " What is 2?", tokenizer) == "<bos><user>What is 2?<bot><think>\n"
    files = changed() | {TEMPLATE: b"{{ raise_exception('no') }}"}  # a file of its own comes first
    with pytest.raises(ValueError, match="chat template fails on a question: no"):
        templates.render("chat", "x", Tokenizer(HfVocabulary(files)))
    files[TEMPLATE] = b"{{ messages.__class__.__mro__ }}"
    with pytest.raises(ValueError, match="fails on a question"):  # the sandbox
        templates.render("chat", "x", Tokenizer(HfVocabulary(files)))
    named = changed(chat_template=[{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}])
    assert templates.render("chat", "x", Tokenizer(HfVocabulary(named))) == "d"
    with pytest.raises(ValueError, match="brings no chat template"):
        templates.render("chat", "x", Tokenizer(HfVocabulary(changed(chat_template=None))))
    with pytest.raises(ValueError, match="brings no chat template"):
        templates.render("chat", "x")


def test_saved_files_are_those_that_came(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for name in (FILE, SETTINGS, "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
    assert Tokenizer.load(tmp_path).encode("What is 2?") == tokenizer.encode("What is 2?")


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({SETTINGS: b"{}"}, f"lacks {FILE}|NoneType|decodes"),
        (changed() | {FILE: b"{}"}, "damaged"),
        (changed() | {SETTINGS: b"[]"}, f"{SETTINGS} is list"),
        (changed(eos_token="<gone>"), "'<gone>', which tokenizer.json does not hold"),
        ({k: v for k, v in changed(eos_token=None).items() if "generation" not in k}, "names the token that ends"),
        (changed() | {FILE: json.dumps(json.loads(changed()[FILE]) | {"decoder": WORDPIECE}).encode()}, "decodes by"),
    ],
)  # fmt: skip
def test_bad_files_are_named(files, named):
    with pytest.raises(ValueError, match=named):
        HfVocabulary(files, "there")


def test_a_lone_surrogate_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        tokenizer.encode("a\ud800")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """(our SentencePiece tokenizer, a folder with what it is exported as)."""
    folder = tmp_path_factory.mktemp("exported")
    tokenizer = Tokenizer.train(_documents(), CONFIG, folder / "own")
    for name, content in tokenizer_files(tokenizer, "r1_zero", 128).items():
        (folder / name).write_bytes(content)
    return tokenizer, folder


def hostile_texts():
    rng = random.Random(3)
    for _ in range(2000):
        scalars = (c if c < 0xD800 else c + 0x800 for c in (rng.randrange(0x10F800) for _ in range(20)))
        text = "".join(rng.choice(ODD) if rng.random() < 0.7 else chr(next(scalars)) for _ in range(rng.randrange(14)))
        if "\u2581" not in text:  # the one character that the format cannot spell
            yield text


def test_the_exported_vocabulary_encodes_as_sentencepiece_does(ours):
    own, folder = ours
    exported = Tokenizer.load(folder)
    assert exported.vocab_size == own.vocab_size and exported.start_ids == own.start_ids
    assert exported.end_ids == [own.eos_id, *own.stop_ids(["</answer>"])]
    documents = list(_documents())
    differing = [text for text in [*documents, *hostile_texts()] if exported.encode(text) != own.encode(text)]
    assert len(documents) == 1500 and differing == []
    for token in range(own.vocab_size):
        assert exported.token_bytes(token) == own.token_bytes(token) or token == 3  # <unk> has no text
    question = "What is 2 + 3?"
    assert templates.render("chat", question, exported) == "<s>" + templates.render("r1_zero", question)
    prompt = templates.render("chat", question, exported)
    assert exported.encode_prompt(prompt) == own.encode_prompt(templates.render("r1_zero", question))


@live
def test_transformers_opens_both_and_agrees(ours, tokenizer):
    from transformers import AutoTokenizer

    own, folder = ours
    shutil.copy(FOLDER / "config.json", folder)  # which class opens a tokenizer depends on it
    opened = AutoTokenizer.from_pretrained(folder)
    for text in list(_documents())[:100]:
        assert opened(text).input_ids == own.encode_prompt(text)
        assert opened.decode(own.encode(text)) == text
    assert (opened.eos_token_id, opened.pad_token_id) == (own.eos_id, own.pad_id)
    theirs = AutoTokenizer.from_pretrained(FOLDER)
    for question in ("What is 2 + 3?", "é\n", "  a"):
        chat = [{"role": "user", "content": question}]
        text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert text == templates.render("chat", question, tokenizer)
        ids = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert ids == tokenizer.encode_prompt(text)
        assert theirs(question, add_special_tokens=False).input_ids == tokenizer.encode(question)
