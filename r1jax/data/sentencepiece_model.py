"""A SentencePiece model as a tokenizer's vocabulary, and its training: any Unicode text comes back unchanged."""

from __future__ import annotations

import io
import itertools
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from r1jax.config import TokenizerConfig
from r1jax.data.vocabulary import SYMBOLS, UNREADABLE, Vocabulary

FILE = "tokenizer.model"
PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
SPACE_MARK = "\u2581"  # SentencePiece writes a space as this character, and so reads this character as a space
# A digit is a token of its own, with the space before it where there is one: no token holds two digits.
_SPACED_DIGITS = tuple(f"{SPACE_MARK}{digit}" for digit in range(10))
_RESERVED = re.compile("[\0\t\u2047\u2581\u2585]")  # SentencePiece keeps these for itself and skips text with them
_SENTENCE_END = re.compile(r"(?<=[.:?!])(?=\s)")
_CUT_EVERY = 512  # characters
_LONGEST_RUN = 1 << 20  # bytes; SentencePiece skips longer ones
_THREADS = 2  # fixed: the sums of the training, and so the model, depend on how many there are
_SEED_PIECES = 100_000  # candidates the pruning starts from


class SentencePieceModel(Vocabulary):
    """Pieces trained by `train`. Nothing is normalised, digits stand alone, what no piece covers is spelt in bytes.

    Text that looks like a control token is text.
    """

    chat_template = None
    control = frozenset[str]()

    def __init__(self, model: bytes, source: str = "model"):
        """From the bytes of a SentencePiece model; `source` names them in errors.

        Raises:
          ValueError: these are not such bytes, or the model lacks what r1jax relies on.
        """
        if not model:
            raise ValueError(f"{source} is empty; restore or retrain the tokenizer")
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            size = processor.get_piece_size()
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"{source} is not a SentencePiece model ({error}); restore or retrain it") from error
        self.model = model
        self.processor = processor
        ids = {processor.id_to_piece(i): i for i in range(size)}
        byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
        missing = [piece for piece in (PAD, BOS, EOS, *SYMBOLS, *byte_pieces) if piece not in ids]
        if missing:
            raise ValueError(f"{source} lacks the pieces {missing[:8]}; expected a tokenizer trained by r1jax")
        self.pad_id, self.bos_id, self.eos_id = (ids[piece] for piece in (PAD, BOS, EOS))
        self.start_ids, self.end_ids = [self.bos_id], [self.eos_id]
        self.symbols = {symbol: ids[symbol] for symbol in SYMBOLS}
        self._space_mark_ids = [ids[byte_pieces[byte]] for byte in SPACE_MARK.encode()]
        self.pieces = [self._piece_bytes(i) for i in range(size)]

    @classmethod
    def load(cls, directory: str | os.PathLike) -> SentencePieceModel:
        """The one saved in `directory`. Raises ValueError when it is missing or corrupt."""
        path = Path(directory) / FILE
        try:
            model = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}); expected a saved tokenizer") from error
        return cls(model, str(path))

    def save(self, directory: str | os.PathLike) -> None:
        """Writes `directory/tokenizer.model`, whole or not at all."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{FILE}.", delete=False) as file:
            file.write(self.model)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, folder / FILE)

    def encode(self, text: str, *, control: bool) -> list[int]:
        first, *others = text.split(SPACE_MARK)
        ids = self.processor.encode(first)
        for part in others:
            ids += self._space_mark_ids + self.processor.encode(part)
        return ids

    def _piece_bytes(self, token: int) -> bytes:
        piece = self.processor.id_to_piece(token)
        if self.processor.is_unknown(token):
            return UNREADABLE
        if self.processor.is_control(token):
            return b""
        if self.processor.is_byte(token):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE_MARK, " ").encode()


def train(texts: Iterable[str], config: TokenizerConfig) -> SentencePieceModel:
    """Trains a unigram model on the first `config.train_documents` texts.

    The same texts give the same bytes. A small corpus may give fewer pieces than `config.vocab_size`.

    Raises:
      ValueError: there are no texts, or the vocabulary is too small for the bytes and characters it must hold.
    """
    documents = list(itertools.islice(texts, config.train_documents))
    runs = Counter(_training_runs(documents, config.across_words))
    if not runs:
        raise ValueError(f"texts holds no text in its first {config.train_documents}; expected documents")
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{run}\t{count}" for run, count in runs.items()),
            input_format="tsv",
            model_writer=written,
            model_type="unigram",
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,
            max_sentencepiece_length=config.max_piece_length,
            split_by_whitespace=not config.across_words,
            split_by_unicode_script=not config.across_words,  # else a phrase breaks at every comma
            split_digits=True,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            user_defined_symbols=[*SYMBOLS, *_SPACED_DIGITS],
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece=PAD,  # the other three are SentencePiece's own: <s>, </s>, <unk>
            max_sentence_length=_LONGEST_RUN,
            seed_sentencepiece_size=_SEED_PIECES,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"tokenizer.vocab_size is {config.vocab_size} and could not be trained on {len(documents)} documents: "
            f"{error}; it must hold 264 bytes and symbols and the corpus's characters"
        ) from error
    return SentencePieceModel(written.getvalue(), "the trained tokenizer")


def _training_runs(documents: list[str], across_words: bool) -> Iterator[str]:
    """The documents as SentencePiece is to see them: without reserved characters and, across words, cut in runs.

    Always cut after a full stop, colon, question or exclamation mark: a prompt ends there, and a piece that straddled
    its end would spell a completion otherwise in a document than where it is sampled.

    And cut before a few random words. A candidate for a piece is a text that different things follow, and what
    follows the words of a fixed phrase is always the same; so is the end of a run, hence a symbol after half of them.
    Measured on 20,000 documents of `arithmetic_web`: the R1-Zero prompt takes 40 tokens, of uncut documents 163.
    """
    rng = random.Random(0)
    for part in filter(None, itertools.chain.from_iterable(map(_RESERVED.split, documents))):
        if not across_words:
            yield part
            continue
        for sentence in _SENTENCE_END.split(part):
            spaces = [match.start() for match in re.finditer(r"\s", sentence) if match.start()]
            cuts = sorted(rng.sample(spaces, min(len(spaces), 1 + len(sentence) // _CUT_EVERY)))
            runs = [sentence[start:end] for start, end in itertools.pairwise([0, *cuts, len(sentence)])]
            runs[-1] += rng.choice(("", SYMBOLS[0]))
            yield from runs
