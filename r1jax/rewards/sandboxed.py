"""The sandbox's side of `sandbox.run`: limits itself, says that it is ready, then runs the program.

It is handed to the sandboxed interpreter as text, so it imports the standard library alone, and as little of it as
it can, since it starts thousands of times. Nothing that the program must not know is here: of a test it has the
call, not what should come out. What the program does to this code changes only what is written about itself.

Arguments: the descriptor of the job, then the limits: CPU seconds, bytes of memory, bytes of a file.
The job: the program, and after it, each behind a null character, the expressions to evaluate in its namespace; with
none the program is run as a script.
"""

import os
import resource
import sys
from types import ModuleType

READY = b"ready\n"


def limit(cpu_s: int, memory: int, file_size: int) -> None:
    """Hard limits, which nothing in the sandbox can raise again."""
    for kind, value in {
        resource.RLIMIT_CPU: (cpu_s, cpu_s),  # then it is killed
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_FSIZE: (file_size, file_size),
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_NPROC: (64, 64),  # threads; holds where the trainer's user is not root
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }.items():
        resource.setrlimit(kind, value)


def main() -> None:
    """Run the job."""
    job = int(sys.argv[1])
    limit(*map(int, sys.argv[2:]))
    with os.fdopen(job, "rb") as file:
        program, *expressions = file.read().decode("utf-8", "surrogatepass").split("\0")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 2)
    os.write(1, READY)
    sys.argv = ["program.py"]
    if not expressions:
        os.close(nothing)
        execute(program, "__main__")
        return
    replies = os.dup(1)
    os.dup2(nothing, 1)  # what the program prints is not asked for
    os.close(nothing)
    answer(program, expressions, replies)


def execute(program: str, name: str) -> dict:
    """Run a program as a module of its own; its namespace."""
    module = sys.modules[name] = ModuleType(name)
    exec(compile(program, "program.py", "exec"), module.__dict__)
    return module.__dict__


def answer(program: str, expressions: list[str], replies: int) -> None:
    """Evaluate the expressions in turn; a JSON line for each: its index, and its value packed, or null if it raised."""
    import json

    namespace = execute(program, "program")
    for index, expression in enumerate(expressions):
        try:
            value = pack(eval(compile(expression, "test", "eval"), namespace))
        except BaseException:  # SystemExit too: the next one is another test
            value = None
        view = memoryview(json.dumps([index, value]).encode() + b"\n")
        while view:
            view = view[os.write(replies, view) :]


def pack(value: object) -> list:
    """A value as nested lists, each with its type's name first; of other types the name alone."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return [kind.__name__, value]
    if isinstance(value, (list, tuple, set, frozenset)):
        name = next(t.__name__ for t in (list, tuple, set, frozenset) if isinstance(value, t))
        return ["set" if name == "frozenset" else name, [pack(item) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[pack(key), pack(item)] for key, item in value.items()]]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", value.hex()]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    for base in (bool, int, float, str):  # an enumeration's member, say
        if isinstance(value, base):
            return [base.__name__, base(value)]
    return [kind.__name__]


if __name__ == "__main__":
    main()
