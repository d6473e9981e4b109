"""Programs are counted once each, from when the counting begins until it ends."""

import jax
import jax.numpy as jnp

from r1jax.training.compiles import Compiles


def counted(compiles, program, x):
    before = compiles.count
    jax.block_until_ready(program(x))
    return compiles.count - before


def test_each_program_counts_once_and_not_after_close():
    x, y = jnp.ones(3), jnp.ones(4)
    compiles = Compiles()
    program = jax.jit(lambda x: x * 2 + 1)
    assert [counted(compiles, program, x), counted(compiles, program, x), counted(compiles, program, y)] == [1, 0, 1]
    assert compiles.seconds > 0 and compiles.cached <= compiles.count == 2
    figures = {"compile/count": 2, "compile/cached": compiles.cached, "compile/seconds": compiles.seconds}
    assert compiles.figures() == figures
    compiles.close()
    assert counted(compiles, program, jnp.ones(5)) == 0


def test_programs_from_the_cache_are_told_apart():
    """Two functions of one text are two programs to JAX, and one to the cache."""
    kept = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        x = jnp.ones(7)
        jax.block_until_ready(jax.jit(lambda x: jnp.sin(x) * 3)(x))
        compiles = Compiles()
        assert counted(compiles, jax.jit(lambda x: jnp.sin(x) * 3), x) == 1
        assert compiles.cached == 1
        compiles.close()
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", kept)
