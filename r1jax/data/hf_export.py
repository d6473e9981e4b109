"""A tokenizer as the files that transformers and vLLM open."""

from __future__ import annotations

import json
from typing import Any

from r1jax.data.hf_vocabulary import FILE, GENERATION, SETTINGS, HfVocabulary
from r1jax.data.sentencepiece_model import BOS, EOS, PAD, SPACE_MARK, UNK, SentencePieceModel
from r1jax.data.templates import STOP, TEMPLATES
from r1jax.data.tokenizer import Tokenizer
from r1jax.data.vocabulary import SYMBOLS

_BOOST = 0.1  # SentencePiece scores a user-defined piece of n bytes n times the best score, less this
# "<" stands alone before what would spell a control or a byte piece: those are never found in text.
_SPELT_PIECE = "<(?=/?s>|pad>|unk>|0x[0-9A-F]{2}>)"


def tokenizer_files(tokenizer: Tokenizer, template: str, context: int) -> dict[str, bytes]:
    """File name -> contents. An imported tokenizer's files are those it came in.

    A SentencePiece vocabulary becomes a Unigram `tokenizer.json` with the same scores and with the stage's template as
    its chat template. It encodes as SentencePiece does but for two kinds of text: one that holds U+2581 itself, which
    both take for a space and r1jax alone spells in bytes; and one that spells a control token, which transformers
    takes for that token as in every tokenizer of its own.

    Args:
      template: that the policy was trained with.
      context: longest sequence, tokens.
    """
    vocabulary = tokenizer.vocabulary
    stops = [*tokenizer.end_ids, *tokenizer.stop_ids(STOP[template])]
    if isinstance(vocabulary, HfVocabulary):
        generation = {} if GENERATION in vocabulary.files else {GENERATION: _json(_generation(tokenizer, stops))}
        return vocabulary.files | generation
    assert isinstance(vocabulary, SentencePieceModel), "there are two kinds of vocabulary"
    return {
        FILE: _json(_unigram(vocabulary)),
        SETTINGS: _json(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": BOS,
                "eos_token": EOS,
                "pad_token": PAD,
                "unk_token": UNK,
                "model_max_length": context,
                "clean_up_tokenization_spaces": False,
                "chat_template": "{{ bos_token }}"
                + TEMPLATES[template].replace("{prompt}", "{{ messages[-1]['content'] }}"),
            }
        ),
        GENERATION: _json(_generation(tokenizer, stops)),
    }


def _json(tree: dict[str, Any]) -> bytes:
    return (json.dumps(tree, ensure_ascii=False, indent=2) + "\n").encode()


def _generation(tokenizer: Tokenizer, stops: list[int]) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.vocabulary.bos_id,
        "eos_token_id": stops,
        "pad_token_id": tokenizer.pad_id,
        "do_sample": True,
    }


def _unigram(model: SentencePieceModel) -> dict[str, Any]:
    """The model as the `tokenizers` library writes its own."""
    processor = model.processor
    size = processor.get_piece_size()
    pieces = [processor.id_to_piece(i) for i in range(size)]
    spelt = {*SYMBOLS, *(f"{SPACE_MARK}{digit}" for digit in range(10))}  # user-defined in training
    special = [i for i in range(size) if processor.is_control(i) or processor.is_unknown(i)]
    normal = [
        processor.get_score(i)
        for i in range(size)
        if i not in special and not processor.is_byte(i) and pieces[i] not in spelt
    ]
    least, best = min(normal), max(normal)

    def score(i: int) -> float:
        if pieces[i] in spelt:
            return len(pieces[i].encode()) * best - _BOOST
        # Never met in text; the least score leaves that of unknown characters, which follows from it, as it is.
        return least if i in special or processor.is_byte(i) else processor.get_score(i)

    start = {"SpecialToken": {"id": BOS, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i, "content": pieces[i], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True,
            }
            for i in special
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": _SPELT_PIECE}, "behavior": "Isolated", "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {BOS: {"id": BOS, "ids": [model.bos_id], "tokens": [BOS]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "Unigram",
            "unk_id": processor.unk_id(),
            "vocab": [[pieces[i], score(i)] for i in range(size)],
            "byte_fallback": True,
        },
    }  # fmt: skip
