"""Speed on fixed small workloads, beside other trainers: `run.py` measures r1jax, `compare.py` all in turn."""
