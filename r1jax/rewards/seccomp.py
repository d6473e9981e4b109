"""The system calls that sandboxed programs are refused, as a filter that the kernel runs (classic BPF).

Namespaces and limits do the rest; this takes away what neither covers: child processes (no limit on their number
holds a sandbox that root starts), sockets (virtual machines have kinds that no network namespace contains), memory
that no address space counts, and the corners of the kernel that programs have no use for. Threads are allowed.
"""

from __future__ import annotations

import errno
import platform
import struct

# System call: its number on x86_64, on aarch64 (None: it has none there).
REFUSED = {
    "fork": (57, None),
    "vfork": (58, None),
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "unshare": (272, 97),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "syslog": (103, 116),
    "personality": (135, 92),
}
CLONE, CLONE3 = (56, 220), (435, 435)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
X32 = 0x40000000  # bit of the calls of x86_64's second interface
CLONE_THREAD = 0x00010000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instruction codes
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; its lower half, little-endian
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


def program(machine: str | None = None) -> bytes:
    """The filter as an array of `struct sock_filter`, for `bwrap --seccomp`.

    Args:
      machine: as `platform.machine()`, which it is by default.

    Raises:
      ValueError: system calls of that machine are not known here.
    """
    machine = machine or platform.machine()
    if machine not in MACHINES:
        raise ValueError(
            f"the code sandbox got the machine {machine!r}; expected one of {', '.join(MACHINES)}; "
            "add its system calls to r1jax/rewards/seccomp.py, or train without code rewards"
        )
    column, architecture = MACHINES[machine]
    refused, missing = _ERROR | errno.EPERM, _ERROR | errno.ENOSYS
    code = [(_LOAD, 0, 0, _ARCHITECTURE), *_unless(_EQUAL, architecture, _KILL), (_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":
        code += _if(_AT_LEAST, X32, _KILL)
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            code += _if(_EQUAL, number, refused)
    code += _if(_EQUAL, CLONE3[column], missing)  # its flags are out of sight; the C library then calls clone
    code += [(_EQUAL, 1, 0, CLONE[column]), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    code += [*_if(_ANY_BIT, CLONE_THREAD, _ALLOW), (_RETURN, 0, 0, refused)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _if(test: int, value: int, verdict: int) -> list[tuple[int, int, int, int]]:
    return [(test, 0, 1, value), (_RETURN, 0, 0, verdict)]


def _unless(test: int, value: int, verdict: int) -> list[tuple[int, int, int, int]]:
    return [(test, 1, 0, value), (_RETURN, 0, 0, verdict)]
