"""What the configs that start from an imported checkpoint have in common: its policy, read from its config.json."""

from __future__ import annotations

import json
from pathlib import Path

from ml_collections import ConfigDict

from configs.models import r1_distill_qwen_1_5b


def policy(checkpoint: str, **change) -> ConfigDict:
    """The policy of a checkpoint's folder; without one, R1-Distill-Qwen-1.5B's. `change` leaves its weights alone."""
    if checkpoint:
        tree = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
        found = ConfigDict(tree["policy"])
    else:
        found = r1_distill_qwen_1_5b.get_config()
    found.update(change)
    return found
