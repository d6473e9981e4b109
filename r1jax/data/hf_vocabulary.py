"""A checkpoint's own `tokenizer.json` as a tokenizer's vocabulary, through the `tokenizers` library."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from r1jax.data.vocabulary import SYMBOLS, UNREADABLE, Vocabulary

FILE, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
GENERATION = "generation_config.json"
FILES = (FILE, SETTINGS, TEMPLATE, GENERATION, "special_tokens_map.json")
SPACE_MARK = "\u2581"


class HfVocabulary(Vocabulary):
    """A byte-level BPE (Qwen, Llama 3, DeepSeek), or pieces that mark spaces and fall back on bytes.

    Which tokens begin and end a text is read from `tokenizer_config.json`, further ends from
    `generation_config.json`. The files are kept as they came, and saved again unchanged.
    """

    def __init__(self, files: dict[str, bytes], source: str = "tokenizer"):
        """From the contents of those of `FILES` that there are; `source` names them in errors.

        Raises:
          ValueError: `tokenizer.json` is missing or damaged, spells tokens in a way that is not known here, or no
            token ends a text.
        """
        self.files = files
        self._source = source
        tree, settings, generation = (self._json(name) for name in (FILE, SETTINGS, GENERATION))
        special = settings | {k: v for k, v in self._json("special_tokens_map.json").items() if k not in settings}
        self._plain, self._control = _open(files, source), _open(files, source)
        self._plain.encode_special_tokens = True  # what looks like a control token is text
        added = {entry["id"]: entry for entry in tree["added_tokens"]}
        self.pieces = self._token_bytes(tree, added)
        self.control = frozenset(entry["content"] for entry in added.values() if entry["special"])
        ids = {symbol: self._plain.token_to_id(symbol) for symbol in SYMBOLS}
        self.symbols = {symbol: token for symbol, token in ids.items() if token is not None}
        self.texts = {
            name: text
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
            if (text := _content(special.get(name)))
        }
        ends = generation.get("eos_token_id")
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        eos_id = self._id(self.texts.get("eos_token"))
        if eos_id is None and not ends:
            raise ValueError(f"{source}: neither {SETTINGS} nor {GENERATION} names the token that ends a text")
        self.eos_id = ends[0] if eos_id is None else eos_id
        self.end_ids = [self.eos_id, *(end for end in ends if end != self.eos_id)]
        self.bos_id = self._id(self.texts.get("bos_token"))
        pad_id = self._id(self.texts.get("pad_token"))
        self.pad_id = self.eos_id if pad_id is None else pad_id
        self.start_ids = self._start(settings)
        self.chat_template = self._template(settings)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> HfVocabulary:
        """From a folder that holds `tokenizer.json`, whatever else is in it."""
        folder = Path(directory)
        try:
            return cls({name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}, str(folder))
        except OSError as error:
            raise ValueError(
                f"{folder / FILE} cannot be read ({error.strerror}); expected a saved tokenizer"
            ) from error

    def save(self, directory: str | os.PathLike) -> None:
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", delete=False) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, folder / name)

    def encode(self, text: str, *, control: bool) -> list[int]:
        return (self._control if control else self._plain).encode(text, add_special_tokens=False).ids

    def _json(self, name: str) -> dict[str, Any]:
        try:
            tree = json.loads(self.files.get(name, b"{}"))
        except ValueError as error:
            raise ValueError(f"{self._source}: {name} is damaged ({error}); copy it again") from error
        if not isinstance(tree, dict):
            raise ValueError(f"{self._source}: {name} is {type(tree).__name__}; expected an object: copy it again")
        return tree

    def _id(self, text: str | None) -> int | None:
        token = None if text is None else self._plain.token_to_id(text)
        if text is not None and token is None:
            raise ValueError(f"{self._source}: {SETTINGS} names {text!r}, which {FILE} does not hold; copy both again")
        return token

    def _start(self, settings: dict[str, Any]) -> list[int]:
        """What the library puts before a text, unless the settings say otherwise."""
        if settings.get("add_bos_token") is not None:
            return [self.bos_id] if settings["add_bos_token"] and self.bos_id is not None else []
        bare = self._control.encode("a", add_special_tokens=False).ids
        whole = self._control.encode("a", add_special_tokens=True).ids
        before = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return whole[:before]

    def _template(self, settings: dict[str, Any]) -> str | None:
        if TEMPLATE in self.files:
            return self.files[TEMPLATE].decode()
        own = settings.get("chat_template")
        if isinstance(own, list):  # several, by name
            return next((entry["template"] for entry in own if entry["name"] == "default"), None)
        return own

    def _token_bytes(self, tree: dict[str, Any], added: dict[int, dict]) -> list[bytes]:
        decoder = tree["decoder"] or {}
        parts = {part["type"]: part for part in decoder.get("decoders", [decoder]) if part}
        if "ByteLevel" in parts:
            spell = _byte_level
        elif {"ByteFallback", "Replace"} <= parts.keys() <= {"ByteFallback", "Replace", "Fuse"}:
            spell = _marked_spaces
        else:
            raise ValueError(f"{self._source}: {FILE} decodes by {sorted(parts)}; expected ByteLevel or ByteFallback")
        vocab = {token: text for text, token in self._plain.get_vocab(with_added_tokens=True).items()}
        pieces = [spell(vocab[i]) if i in vocab else UNREADABLE for i in range(max(vocab) + 1)]
        for token, entry in added.items():
            pieces[token] = b"" if entry["special"] else entry["content"].encode()
        return pieces


def _open(files: dict[str, bytes], source: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(f"{source} needs the package 'tokenizers'; install r1jax[hf]") from error
    if FILE not in files:
        raise ValueError(f"{source} lacks {FILE}; expected a checkpoint with its tokenizer")
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(files[FILE])
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"{source}: {FILE} is damaged ({error}); copy it again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _content(token: Any) -> str | None:
    """A special token's text, written plainly or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def _alphabet() -> dict[str, int]:
    """The characters that byte-level tokens are written in: a printable one is itself, the others follow at U+0100."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}


_BYTES = _alphabet()


def _byte_level(text: str) -> bytes:
    return b"".join(bytes([_BYTES[c]]) if c in _BYTES else c.encode() for c in text)


def _marked_spaces(text: str) -> bytes:
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        return bytes([int(text[3:5], 16)])
    return text.replace(SPACE_MARK, " ").encode()
