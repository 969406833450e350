"""What Debian's kernel 6.1 refuses and newer ones do not, found without it (`make test-vm` asks it itself)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from mip6.dataplane.libbpf import library
from mip6.dataplane.libbpfstructs import OpenOptions
from mip6.dataplane.maps import OBJECT

INSTRUCTION = struct.Struct("=BBhi")
JMP, JMP32 = 5, 6  # classes
JA, CALL, EXIT = 0x0, 0x8, 0x9  # operations


def programs(path: Path) -> Iterator[tuple[str, list[tuple[int, int, int, int]]]]:
    """Name and instructions of each program of an object, which is not loaded."""
    lib = library()
    lib.bpf_program__insns.restype, lib.bpf_program__insns.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    lib.bpf_program__insn_cnt.restype, lib.bpf_program__insn_cnt.argtypes = ctypes.c_size_t, (ctypes.c_void_p,)
    opened = lib.bpf_object__open_file(os.fsencode(path), ctypes.byref(OpenOptions(sz=ctypes.sizeof(OpenOptions))))
    assert opened
    try:
        one = None
        while one := lib.bpf_object__next_program(opened, one):
            code = ctypes.string_at(lib.bpf_program__insns(one), 8 * lib.bpf_program__insn_cnt(one))
            yield lib.bpf_program__name(one).decode(), list(INSTRUCTION.iter_unpack(code))
    finally:
        lib.bpf_object__close(opened)


def edges(code: list[tuple[int, int, int, int]], at: int) -> Iterator[tuple[int, bool]]:
    """Where it goes on from an instruction, as `visit_insn` of the verifier says it, and whether that may be back."""
    opcode, _, offset, _ = code[at]
    operation = opcode >> 4
    if opcode & 7 not in (JMP, JMP32) or operation == CALL:
        yield at + 1, False
    elif operation == JA:
        yield at + 1 + offset, True
    elif operation != EXIT:
        yield at + 1, True
        yield at + 1 + offset, True


def refused(code: list[tuple[int, int, int, int]]) -> list[tuple[int, int]]:
    """The edges that `check_cfg` refuses: what is no jump falls into a loop's beginning, which came first."""
    found, done, path = [], set[int](), {0: edges(code, 0)}
    while path:
        at = next(reversed(path))
        for target, back in path[at]:
            if target in path:
                if not back:
                    found.append((at, target))
            elif target not in done:
                path[target] = edges(code, target)
                break
        else:
            del path[at]
            done.add(at)
    return found


def test_the_check_itself() -> None:
    """r0 = 0; goto 3; 2: r0 += 1; 3: r0 += 1; if r0 < 9 goto 2; exit: entered in the middle."""
    code = [(0xB7, 0, 0, 0), (0x05, 0, 1, 0), (0x07, 0, 0, 1), (0x07, 0, 0, 1), (0xA5, 0, -3, 9), (0x95, 0, 0, 0)]
    assert refused(code) == [(2, 3)]
    code[1] = (0x05, 0, 0, 0)
    assert refused(code) == []


@pytest.mark.parametrize(("name", "code"), [pytest.param(*one, id=one[0]) for one in programs(OBJECT)])
def test_loops_are_entered_where_they_begin(name: str, code: list[tuple[int, int, int, int]]) -> None:
    assert refused(code) == [], name
