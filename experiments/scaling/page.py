"""Writes the tables and pictures of docs/scaling.md; --check says which of its tables are not what is computed.

python -m experiments.scaling.page [--check]

Prose stands in the page itself; what lies between `<!-- table: NAME -->` and `<!-- end -->` is made here.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from experiments.scaling import pictures
from experiments.scaling.chips import CHIPS
from experiments.scaling.tables import COUNTS, POLICIES, TABLES, decode, update

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with its tables as they are computed now."""
    return PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is not as computed")
    check = parser.parse_args().check
    old = PAGE.read_text(encoding="utf-8")
    new = filled(old)
    if check:
        wrong = [a[2] for a, b in zip(PLACE.finditer(old), PLACE.finditer(new), strict=True) if a[0] != b[0]]
        print(f"not as computed: {', '.join(wrong)}" if wrong else "all tables are as computed", file=sys.stderr)
        return int(bool(wrong))
    PAGE.write_text(new, encoding="utf-8")
    for name, curves in (("update", update), ("token", decode)):
        found = {
            (policy, chip.name): [
                b for b in (curves(POLICIES[policy], chip, count) for count in COUNTS) if b is not None
            ]
            for policy in POLICIES
            for chip in CHIPS
        }
        pictures.draw(name, found, PAGE.with_suffix("") / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
