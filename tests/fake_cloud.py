#!/usr/bin/env python3
"""A pretended gcloud, for tests: keeps queued resources and their hosts in a folder, and runs what is sent to them.

FAKE_CLOUD is the folder. `calls.jsonl` gets the words of every call. A host is a folder `hosts/NAME/NODE-WORKER`, the
home of what runs there; `state` holds the queued resource's state, `fails` the number of calls of ssh still to fail.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])
WORKERS = 2  # of a slice


def main(words: list[str]) -> int:
    with (CLOUD / "calls.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(words) + "\n")
    if words[:3] != ["compute", "tpus", "queued-resources"]:
        return 0
    verb, *words = words[3:]
    options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    names = [word for word in words if not word.startswith("--")]
    return {"create": create, "describe": describe, "delete": delete, "scp": scp, "ssh": ssh}[verb](names, options)


def create(names: list[str], options: dict[str, str]) -> int:
    for node in range(int(options.get("node-count", 1))):
        for worker in range(WORKERS):
            (CLOUD / "hosts" / names[0] / f"{node}-{worker}").mkdir(parents=True)
    (CLOUD / "state").write_text("ACTIVE")
    return 0


def describe(names: list[str], options: dict[str, str]) -> int:
    assert options["format"] == "value(state.state)"
    if not (CLOUD / "state").exists():
        print("ERROR: (gcloud) NOT_FOUND: no such queued resource", file=sys.stderr)
        return 1
    print((CLOUD / "state").read_text())
    return 0


def delete(names: list[str], options: dict[str, str]) -> int:
    for file in (CLOUD / "hosts" / names[0]).glob("*/runs/*.pid"):
        process = Path("/proc") / file.read_text().strip()
        if process.is_dir() and str(CLOUD) in os.readlink(process / "cwd"):
            os.kill(int(process.name), signal.SIGKILL)
    (CLOUD / "hosts" / names[0]).rename(CLOUD / f"deleted-{time.time_ns()}")  # what was killed may still be writing
    (CLOUD / "state").unlink()
    return 0


def hosts(name: str, options: dict[str, str]) -> list[Path]:
    asked = (options.get("node", "0"), options.get("worker", "0"))
    found = sorted((CLOUD / "hosts" / name).iterdir())
    return [path for path in found if all(a in ("all", b) for a, b in zip(asked, path.name.split("-"), strict=True))]


def scp(names: list[str], options: dict[str, str]) -> int:
    name, _, destination = names[1].partition(":")
    for home in hosts(name, options):
        shutil.copy(names[0], home / destination)
    return 0


def ssh(names: list[str], options: dict[str, str]) -> int:
    fails = int((CLOUD / "fails").read_text()) if (CLOUD / "fails").exists() else 0
    if fails:
        (CLOUD / "fails").write_text(str(fails - 1))
        return 255
    codes = [
        subprocess.run(["bash", "-c", options["command"]], cwd=home, env=os.environ | {"HOME": str(home)}).returncode
        for home in hosts(names[0], options)
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
