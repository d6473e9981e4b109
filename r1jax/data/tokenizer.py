"""Text to ids and back, whatever vocabulary stands behind it: SentencePiece, or a checkpoint's tokenizer.json."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from r1jax.config import TokenizerConfig
from r1jax.data import hf_vocabulary, sentencepiece_model
from r1jax.data.hf_vocabulary import HfVocabulary
from r1jax.data.sentencepiece_model import SentencePieceModel
from r1jax.data.vocabulary import SYMBOLS, UNREADABLE, Vocabulary


class Tokenizer:
    """A vocabulary with the few operations that the rest of r1jax needs.

    With a SentencePiece vocabulary `decode(encode(text)) == text` for every Unicode text; with an imported one, up to
    what its normaliser changes (Qwen2 composes accents). In `encode`, text that looks like a control token is text.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary.pieces)  # ids there are; a policy's may be more
        self.pad_id, self.eos_id = vocabulary.pad_id, vocabulary.eos_id
        self.start_ids = vocabulary.start_ids  # what every document and prompt begins with
        self.end_ids = vocabulary.end_ids  # any of which ends a completion
        self.control = vocabulary.control  # texts that `encode_prompt` takes for control tokens
        self.chat_template = vocabulary.chat_template

    @classmethod
    def train(cls, texts: Iterable[str], config: TokenizerConfig, directory: str | os.PathLike) -> Tokenizer:
        """Trains SentencePiece on the first `config.train_documents` texts and saves it in `directory`.

        Raises:
          ValueError: as `sentencepiece_model.train`.
        """
        tokenizer = cls(sentencepiece_model.train(texts, config))
        tokenizer.save(directory)
        return tokenizer

    @classmethod
    def load(cls, directory: str | os.PathLike) -> Tokenizer:
        """The tokenizer saved in `directory`. Raises ValueError when it is missing or corrupt."""
        if (Path(directory) / hf_vocabulary.FILE).exists():
            return cls(HfVocabulary.load(directory))
        return cls(SentencePieceModel.load(directory))

    def save(self, directory: str | os.PathLike) -> None:
        self.vocabulary.save(directory)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without begin or end tokens.

        Raises:
          ValueError: it holds a lone surrogate, which no encoding of Unicode can carry.
        """
        return self._encode(text, control=False)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt: the document's start, unless `text` spells it, and control tokens where it spells them."""
        ids, start = self._encode(text, control=True), self.start_ids
        return ids if start and ids[: len(start)] == start else start + ids

    def _encode(self, text: str, *, control: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text holds a lone surrogate at character {error.start}; expected Unicode") from error
        return self.vocabulary.encode(text, control=control)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`: pad, begin and end tokens are silent; what is no text or no piece is U+FFFD.

        Raises:
          ValueError: an id is negative.
        """
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """What one id adds to the UTF-8 text; it may end within a character."""
        if token < 0:
            raise ValueError(f"token id is {token}; expected 0 or more")
        return self.vocabulary.pieces[token] if token < self.vocab_size else UNREADABLE

    def stop_ids(self, strings: Iterable[str]) -> list[int]:
        """The ids, beside `end_ids`, at which sampling stops: those of `strings` that are one token.

        Every one of `SYMBOLS` is a token of a SentencePiece vocabulary. An imported one may lack some: its policy was
        never taught to stop there, and ends a text by its end token.

        Raises:
          ValueError: a string is none of `SYMBOLS`.
        """
        found = []
        for string in strings:
            if string not in SYMBOLS:
                raise ValueError(
                    f"symbol is {string!r}; expected one of {', '.join(SYMBOLS)}: only these are one token"
                )
            if string in self.vocabulary.symbols:
                found.append(self.vocabulary.symbols[string])
        return found


class StreamDecoder:
    """Decodes ids as they arrive, holding back a character until all its bytes are there."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that `token` completes, possibly none."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, else nothing."""
        return self._decoder.decode(b"", final=True)
