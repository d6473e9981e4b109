"""Eight simulated devices, a compilation cache that outlives the run, and the shared fixtures."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Before JAX is imported anywhere; what the caller has set stands.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little: XLA's costly optimisations are left out, which cuts compile time threefold.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false",
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def source_dir() -> Path:
    """The folder of raw data files (`gsm8k/`, `math500/`)."""
    path = Path(os.environ.get("R1JAX_SOURCE_DIR") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no raw data at {path}; set R1JAX_SOURCE_DIR to the folder that holds gsm8k/ and math500/")
    return path
