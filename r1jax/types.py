"""The dimension key and the records that pass between rooms.

Array names end in their axes, one letter each:

    P prompts            G samples a prompt      B = P * G sequences
    L tokens of a sequence                       S cache slots
    R packed rows        T tokens of a packed row
    D model width        H query heads           K KV heads        C head size
    E experts            A active experts a token F expert width
    V vocabulary         N layers                W cached floats a token and layer
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
PyTree = Any


class Packed(NamedTuple):
    """Sequences laid side by side in rows, with their shared prompts stored once.

    A token may attend to an earlier token of the same row and segment whose branch is its own or 0.
    Branch 0 is what all branches of a segment share: the prompt of a group, or a whole document.
    """

    tokens_RT: Array  # int32
    segment_RT: Array  # int32, 1.. within a row; 0 is padding
    branch_RT: Array  # int32, 0 is the shared prefix of the segment
    position_RT: Array  # int32, of the token in its own sequence
    target_RT: Array  # int32, the token to predict here; meaningful where weight_RT > 0
    weight_RT: Array  # float32, 1 where target_RT is to be learnt or scored, else 0


class Rollouts(NamedTuple):
    """What the engine sampled for P prompts of G samples each (sequence b belongs to prompt b // G)."""

    prompt_PL: np.ndarray  # int32, padded on the right
    prompt_length_P: np.ndarray  # int32, tokens
    completion_BL: np.ndarray  # int32, padded on the right; includes the stop token
    length_B: np.ndarray  # int32, tokens sampled
    logp_sampler_BL: np.ndarray  # float32, nats, at the sampling temperature; 0 past the length
    finished_B: np.ndarray  # bool: stopped by itself; False means truncated
