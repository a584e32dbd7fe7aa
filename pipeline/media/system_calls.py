"""The system calls that a decoding child may make (seccomp-bpf): those for what it has open, for memory, time and its end.

Whatever else is asked for, opening, connecting, signalling or starting something, is refused with EPERM: a library that only
tries goes on without it. `newfstatat` is `fstat` in many C libraries, so a child can still ask whether a path exists.
"""

import ctypes
import errno
import os
import struct
from typing import NamedTuple


class _Machine(NamedTuple):
    audit_number: int
    allowed: tuple[int, ...]


# In both lists: read pread64 lseek fstat newfstatat write writev sendto close ppoll; brk mmap mremap munmap mprotect madvise;
# futex sched_yield rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall getpid gettid getrandom;
# clock_gettime clock_getres clock_nanosleep gettimeofday nanosleep; exit exit_group. On x86_64 poll and time too.
# No tgkill, since it reaches every process of the user: abort() ends in a fault without it.
_X86_64 = (
    *(0, 17, 8, 5, 262, 1, 20, 44, 3, 271),
    *(12, 9, 25, 11, 10, 28),
    *(202, 24, 13, 14, 15, 131, 219, 39, 186, 318),
    *(228, 229, 230, 96, 35),
    *(60, 231),
    *(7, 201),
)
_AARCH64 = (
    *(63, 67, 62, 80, 79, 64, 66, 206, 57, 73),
    *(214, 222, 216, 215, 226, 233),
    *(98, 124, 134, 135, 139, 132, 128, 172, 178, 278),
    *(113, 114, 115, 169, 101),
    *(93, 94),
)
_MACHINES = {"x86_64": _Machine(0xC000_003E, _X86_64), "aarch64": _Machine(0xC000_00B7, _AARCH64)}

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in struct seccomp_data
_ALLOW, _REFUSE, _KILL = 0x7FFF_0000, 0x0005_0000 | errno.EPERM, 0x8000_0000
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter


class _Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("instructions", ctypes.c_char_p))  # struct sock_fprog


def restrict() -> bool:
    """Refuse everything else, for ever; False where this machine or its kernel has no such filters."""
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return False
    code = _program(machine)
    program = _Program(len(code) // _INSTRUCTION.size, code)
    prctl = ctypes.CDLL(None).prctl
    arguments = (ctypes.c_ulong(_MODE_FILTER), ctypes.byref(program), ctypes.c_ulong(0), ctypes.c_ulong(0))
    return bool(prctl(_PR_SET_SECCOMP, *arguments) == 0)


def _program(machine: _Machine) -> bytes:
    count = len(machine.allowed)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 1, 0, machine.audit_number),
        (_RETURN, 0, 0, _KILL),  # the same numbers mean other calls there
        (_LOAD, 0, 0, _NUMBER_AT),
        *((_JUMP_IF_EQUAL, count - index, 0, number) for index, number in enumerate(machine.allowed)),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)
