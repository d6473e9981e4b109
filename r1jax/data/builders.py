"""TFDS builders, written as ArrayRecord and read as random-access data sources; TensorFlow is not needed.

Records are kept under DATA_DIR/NAME/FINGERPRINT/VERSION. The fingerprint is a hash of the parameters, of the code
that generates and of the raw files, so that a change of any of them never meets old records. TFDS writes into a
folder of another name and renames it when all is there, so what an interrupted run leaves is never read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from r1jax.data import arithmetic, benchmarks, documents, records, templates
from r1jax.data.arithmetic import Arithmetic
from r1jax.data.benchmarks import CodeContests, Published, Solutions
from r1jax.data.documents import Mixture
from r1jax.data.records import Records, build_parameters

_MAX_REPEATS = 2000  # draws in a row that bring nothing new: there are no more such problems


@dataclasses.dataclass(frozen=True)
class ArithmeticTask:
    """Parameters of the arithmetic task."""

    train_size: int = 8000
    test_size: int = 500
    seed: int = 0
    spanish: float = 0.25  # share of questions
    problems: Arithmetic = dataclasses.field(default_factory=Arithmetic)

    def __post_init__(self):
        if not 0 <= self.spanish <= 1:
            raise ValueError(f"data.source['arithmetic'].kwargs.spanish is {self.spanish}; expected a share in 0..1")


@dataclasses.dataclass(frozen=True)
class ArithmeticCorpus:
    """Parameters of the arithmetic corpus."""

    documents: int = 60000
    seed: int = 0
    mixture: Mixture = dataclasses.field(default_factory=Mixture)
    problems: Arithmetic = dataclasses.field(default_factory=Arithmetic)


class RawFile(NamedTuple):
    """A file as its authors publish it."""

    path: str  # under source_dir
    url: str  # "": it cannot be downloaded from here
    size: int  # records in it
    remedy: str = ""  # where there is no address: where to get it


@dataclasses.dataclass
class RecordsConfig(tfds.core.BuilderConfig):
    """What a builder needs to know; `name` is its fingerprint."""

    parameters: Any = None
    source_dir: str = ""  # folder of raw files; "" downloads them


class RecordsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base of the builders below: all their fields are texts, and their order is kept."""

    VERSION = tfds.core.Version("1.0.0")
    FIELDS: ClassVar[tuple[str, ...]] = ()
    PARAMETERS: ClassVar[type] = Published
    FILES: ClassVar[dict[str, tuple[RawFile, ...]]] = {}  # by split
    url_infos: ClassVar[dict] = {}  # no checksums on file; TFDS's own look-up needs a package that it does not require

    def __init_subclass__(cls, **kwargs):
        # TFDS has builders of these names too, and one registry for all.
        super().__init_subclass__(skip_registration=True, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict({field: tfds.features.Text() for field in self.FIELDS}),
            disable_shuffling=True,
        )

    def _generate_examples(self, rows: Iterable[dict[str, str]]) -> Iterator[tuple[int, dict[str, str]]]:
        return enumerate(rows)


class PublishedBuilder(RecordsBuilder):
    """Base of those whose records come from raw files, by a function of `benchmarks.py`."""

    ROWS: ClassVar[Callable[[Sequence[Path], Any], Iterator[dict[str, str]]]]

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        given, own = self.builder_config.source_dir, {"task": self.name, "language": "en"}
        splits = {}
        for split, files in self.FILES.items():
            paths = [_raw_file(given, x) if given else _downloaded(dl_manager, x.url, x.size) for x in files]
            rows = type(self).ROWS(paths, self.builder_config.parameters)
            splits[split] = self._generate_examples(row | own for row in rows)
        return splits


class ArithmeticBuilder(RecordsBuilder):
    """Questions about integer expressions, in English and Spanish; train and test share no expression."""

    name = "arithmetic"
    FIELDS = ("question", "answer", "task", "language", "expression")
    PARAMETERS = ArithmeticTask

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        task: ArithmeticTask = self.builder_config.parameters
        return {
            "train": self._generate_examples(arithmetic_records(task, test=False)),
            "test": self._generate_examples(arithmetic_records(task, test=True)),
        }


class ArithmeticCorpusBuilder(RecordsBuilder):
    """Documents for pretraining; see `documents.py`."""

    name = "arithmetic_corpus"
    FIELDS = ("text",)
    PARAMETERS = ArithmeticCorpus

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        c: ArithmeticCorpus = self.builder_config.parameters
        texts = (documents.document(c.seed, index, c.mixture, c.problems) for index in range(c.documents))
        return {"train": self._generate_examples({"text": text} for text in texts)}


class Gsm8kBuilder(PublishedBuilder):
    """Grade-school word problems (Cobbe et al. 2021); `solution` is the published text, `answer` its number."""

    name = "gsm8k"
    FIELDS = ("question", "answer", "task", "language", "solution")
    ROWS = benchmarks.gsm8k
    _URL = "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/"
    FILES: ClassVar = {
        "train": (RawFile("gsm8k/train.jsonl", _URL + "train.jsonl", 7473),),
        "test": (RawFile("gsm8k/test.jsonl", _URL + "test.jsonl", 1319),),
    }


class Gsm8kSolutionsBuilder(PublishedBuilder):
    """GSM8K's solutions as completions to learn."""

    name = "gsm8k_solutions"
    FIELDS = ("question", "answer", "task", "language", "template", "completion")
    PARAMETERS = Solutions
    ROWS = benchmarks.gsm8k_solutions
    FILES: ClassVar = Gsm8kBuilder.FILES


class Math500Builder(PublishedBuilder):
    """500 problems of MATH (Hendrycks et al. 2021; the selection is Lightman et al. 2023's)."""

    name = "math500"
    FIELDS = ("question", "answer", "task", "language", "solution", "subject", "level")
    ROWS = benchmarks.math500
    # The repository keeps the file in Git LFS, whose contents come from the media host, not from raw.
    _URL = "https://media.githubusercontent.com/media/openai/prm800k/main/prm800k/math_splits/test.jsonl"
    FILES: ClassVar = {"test": (RawFile("math500/test.jsonl", _URL, 500),)}


class Aime24Builder(PublishedBuilder):
    """The two papers of the American Invitational Mathematics Examination of 2024, 15 problems each."""

    name = "aime24"
    FIELDS = ("question", "answer", "task", "language")
    ROWS = benchmarks.aime24
    _URL = "https://raw.githubusercontent.com/QwenLM/Qwen2.5-Math/main/evaluation/data/aime24/test.jsonl"
    FILES: ClassVar = {"test": (RawFile("aime24/test.jsonl", _URL, 30),)}


class GpqaDiamondBuilder(PublishedBuilder):
    """Graduate-level multiple choice, the 198 that experts agree on (Rein et al. 2023)."""

    name = "gpqa_diamond"
    FIELDS = ("question", "answer", "task", "language", "subject")
    ROWS = benchmarks.gpqa_diamond
    _REMEDY = (
        "its authors ask that it not be spread in plain text: get dataset.zip and its password from "
        "https://github.com/idavidrein/gpqa, and set data.source_dir to the folder that holds gpqa_diamond/"
    )
    FILES: ClassVar = {"test": (RawFile("gpqa_diamond/gpqa_diamond.csv", "", 198, _REMEDY),)}


class LiveCodeBenchBuilder(PublishedBuilder):
    """Contest problems (Jain et al. 2024), from the releases 4 and 5, which hold R1's window and two earlier months."""

    name = "livecodebench"
    FIELDS = ("question", "answer", "task", "language", "cases", "tests", "difficulty", "date")
    PARAMETERS = CodeContests
    ROWS = benchmarks.livecodebench
    _URL = "https://huggingface.co/datasets/livecodebench/code_generation_lite/resolve/main/"
    FILES: ClassVar = {
        "test": (
            RawFile("livecodebench/test4.jsonl", _URL + "test4.jsonl", 101),
            RawFile("livecodebench/test5.jsonl", _URL + "test5.jsonl", 167),
        )
    }


BUILDERS: dict[str, type[RecordsBuilder]] = {
    builder.name: builder
    for builder in (
        ArithmeticBuilder,
        Gsm8kBuilder,
        Gsm8kSolutionsBuilder,
        Math500Builder,
        Aime24Builder,
        GpqaDiamondBuilder,
        LiveCodeBenchBuilder,
        ArithmeticCorpusBuilder,
    )
}


def prepare(name: str, *, data_dir: str, source_dir: str, kwargs: Mapping[str, Any], where: str) -> RecordsBuilder:
    """The builder of data set `name` with its records written, now or before.

    Args:
      name: a key of `BUILDERS`.
      data_dir: folder where prepared records are kept.
      source_dir: folder of raw files; "" downloads them. Generated data sets do not read it.
      kwargs: parameters of the data set, for the builder's `PARAMETERS`.
      where: the key of `data.source` they were given under, for messages.

    Raises:
      ValueError: a parameter or raw file is missing or bad; names the field, the value and the remedy.
    """
    kind = BUILDERS[name]
    data_dir, source_dir = os.path.expanduser(data_dir), os.path.expanduser(source_dir)
    parameters = build_parameters(kind.PARAMETERS, kwargs, f"data.source[{where!r}].kwargs")
    files = [file for split in kind.FILES.values() for file in split]
    if not files:
        source_dir = ""
    for file in files:
        if not source_dir and not file.url:
            raise ValueError(f"data.source_dir is '', but {name} cannot be downloaded from here; {file.remedy}")
    raw = [_raw_file(source_dir, file) for file in files] if source_dir else []
    config = RecordsConfig(name=_fingerprint(kind, parameters, raw), parameters=parameters, source_dir=source_dir)
    logging.info("%s: records %s under %s", name, config.name, data_dir)
    with _quiet():
        builder = _builder(kind, data_dir, config)
        try:
            builder.download_and_prepare(download_dir=str(Path(data_dir) / "downloads"))
        except OSError:
            # Two processes may prepare the same records; the one that renames second finds the first one's.
            if not builder.data_path.exists():
                raise
            builder = _builder(kind, data_dir, config)
    return builder


def read(builder: RecordsBuilder, split: str) -> Records:
    """The records of a prepared split."""
    with _quiet():
        return Records(builder.as_data_source(split))


def arithmetic_records(task: ArithmeticTask, *, test: bool) -> Iterator[dict[str, str]]:
    """Records of one split, all of different expressions.

    Raises:
      ValueError: there are not so many problems of this kind.
    """
    rng = np.random.default_rng([task.seed, int(test)])
    size, seen, repeats = (task.test_size if test else task.train_size), set[str](), 0
    while len(seen) < size:
        expression = arithmetic.draw(rng, task.problems)
        if arithmetic.is_test(expression) != test or expression in seen:
            repeats += 1
            if repeats > _MAX_REPEATS:
                field = "test_size" if test else "train_size"
                raise ValueError(
                    f"data.source['arithmetic'].kwargs.{field} is {size}; only about {len(seen)} different problems "
                    "of this kind exist: lower it, or widen kwargs.problems"
                )
            continue
        seen.add(expression)
        repeats = 0
        language = "es" if rng.random() < task.spanish else "en"
        forms = documents.QUESTIONS[language]
        yield {
            "question": forms[arithmetic.below(rng, len(forms))].format(expression),
            "answer": str(arithmetic.value(expression)),
            "task": "arithmetic",
            "language": language,
            "expression": expression,
        }


def _raw_file(source_dir: str, file: RawFile) -> Path:
    path = Path(source_dir) / file.path
    if not path.is_file():
        remedy = file.remedy or f"give the folder that holds {file.path}, or '' to download it"
        raise ValueError(f"data.source_dir is {source_dir!r}, where {file.path} is not found; {remedy}")
    return path


def _downloaded(dl_manager: tfds.download.DownloadManager, url: str, expected: int) -> Path:
    """The raw file at `url`, checked to hold as many records as were published."""
    try:
        path = Path(dl_manager.download(url))
    except Exception as error:
        raise RuntimeError(
            f"data.source_dir is '' and {url} could not be downloaded ({error}); "
            "get the file by other means and set data.source_dir to the folder that holds it"
        ) from error
    with path.open("rb") as lines:
        got = sum(1 for line in lines if line.strip())
    if got != expected:
        path.unlink()  # TFDS would take it from its cache next time
        raise RuntimeError(f"{url} holds {got} records; expected {expected}. Try again, or set data.source_dir")
    return path


def _builder(kind: type[RecordsBuilder], data_dir: str, config: RecordsConfig) -> RecordsBuilder:
    return kind(data_dir=data_dir, config=config, file_format="array_record")


def _fingerprint(kind: type[RecordsBuilder], parameters: Any, raw: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps(dataclasses.asdict(parameters), sort_keys=True).encode())
    for module in (sys.modules[__name__], arithmetic, benchmarks, documents, records, templates):
        digest.update(inspect.getsource(module).encode())
    for path in raw:
        digest.update(path.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS prints to stdout, which belongs to the verbs' results, and logs every builder it makes."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.display_progress_bar(sys.stderr.isatty())
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
