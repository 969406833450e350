"""libbpf.so.1 through ctypes: load an object file, use its maps, run its programs, find what another process left.

Only what the data plane needs. Every failure is a `LibbpfError` that says what was tried; one to load carries the log
of the kernel's verifier.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mip6.dataplane.libbpfstructs import MapInfo, OpenOptions, ProgramInfo, RunOptions, SkBuff

LIBRARY = "libbpf.so.1"
_LOG_SIZE = 4 << 20
_BATCH = 4096  # elements with one system call
_PER_CPU_TYPES = frozenset((5, 6, 10))  # BPF_MAP_TYPE_PERCPU_HASH, _PERCPU_ARRAY, _LRU_PERCPU_HASH


class LibbpfError(Exception):
    """The library is missing, or the kernel refused. `log` is the verifier's, empty when it was not asked."""

    def __init__(self, what: str, code: int = 0, log: str = "") -> None:
        self.errno, self.log = code, log
        reason = f": {os.strerror(code)}" if code else ""
        super().__init__(f"{what}{reason}" + (f"\n{log}" if log else ""))


_SIGNATURES: dict[str, tuple[Any, ...]] = {  # result, then arguments; all of them set errno
    "bpf_object__open_file": (c_void_p, c_char_p, POINTER(OpenOptions)),
    "bpf_object__load": (c_int, c_void_p),
    "bpf_object__close": (None, c_void_p),
    "bpf_object__next_program": (c_void_p, c_void_p, c_void_p),
    "bpf_object__next_map": (c_void_p, c_void_p, c_void_p),
    "bpf_program__fd": (c_int, c_void_p),
    "bpf_program__name": (c_char_p, c_void_p),
    "bpf_map__fd": (c_int, c_void_p),
    "bpf_map__name": (c_char_p, c_void_p),
    "bpf_map__set_max_entries": (c_int, c_void_p, c_uint32),
    "bpf_map__type": (c_int, c_void_p),
    "bpf_map__key_size": (c_uint32, c_void_p),
    "bpf_map__value_size": (c_uint32, c_void_p),
    "bpf_map__reuse_fd": (c_int, c_void_p, c_int),
    "bpf_map_update_elem": (c_int, c_int, c_char_p, c_char_p, c_uint64),
    "bpf_map_lookup_elem": (c_int, c_int, c_char_p, c_void_p),
    "bpf_map_delete_elem": (c_int, c_int, c_char_p),
    "bpf_map_get_next_key": (c_int, c_int, c_char_p, c_void_p),
    "bpf_map_update_batch": (c_int, c_int, c_char_p, c_char_p, POINTER(c_uint32), c_void_p),
    "bpf_map_lookup_batch": (
        c_int,
        c_int,
        c_void_p,
        c_void_p,
        c_void_p,
        c_void_p,
        POINTER(c_uint32),
        c_void_p,
    ),
    "bpf_map_delete_batch": (c_int, c_int, c_char_p, POINTER(c_uint32), c_void_p),
    "bpf_prog_test_run_opts": (c_int, c_int, POINTER(RunOptions)),
    "bpf_prog_bind_map": (c_int, c_int, c_int, c_void_p),
    "bpf_prog_get_fd_by_id": (c_int, c_uint32),
    "bpf_map_get_fd_by_id": (c_int, c_uint32),
    "bpf_obj_get_info_by_fd": (c_int, c_int, c_void_p, POINTER(c_uint32)),
    "libbpf_num_possible_cpus": (c_int,),
    "libbpf_set_print": (c_void_p, c_void_p),
}


@functools.cache
def library() -> ctypes.CDLL:
    """libbpf with the signatures of what is used. LibbpfError when it is not installed."""
    try:
        lib = ctypes.CDLL(LIBRARY, use_errno=True)
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise LibbpfError(f"{LIBRARY}: {error} (Debian package libbpf1)") from error
    return lib


def _call(name: str, *arguments: Any, about: str = "") -> int:
    """Call a function whose negative result is an error."""
    result: int = getattr(library(), name)(*arguments)
    if result < 0:
        raise LibbpfError(f"{name} {about}".rstrip(), ctypes.get_errno() or -result)
    return result


class Map:
    """One map in the kernel. Keys and values are octets of exactly `key_size` and `value_size`; of a per-CPU map the
    value holds one record, in `part_size` octets, per possible CPU."""

    def __init__(self, fd: int) -> None:
        """Takes the file descriptor over."""
        self.fd, info = fd, MapInfo()
        _call("bpf_obj_get_info_by_fd", fd, byref(info), byref(c_uint32(ctypes.sizeof(info))), about="of a map")
        self.id: int = info.id
        self.name: str = info.name.decode()
        self.shape: tuple[int, int, int] = (info.type, info.key_size, info.value_size)
        self.key_size: int = info.key_size
        self.max_entries: int = info.max_entries
        self.record_size: int = info.value_size
        per_cpu = info.type in _PER_CPU_TYPES
        self.part_size: int = info.value_size + 7 & ~7 if per_cpu else info.value_size
        self.value_size: int = self.part_size * (_call("libbpf_num_possible_cpus") if per_cpu else 1)

    @classmethod
    def by_id(cls, number: int) -> Map:
        """A map that some process has made. LibbpfError (ENOENT) when it is gone."""
        return cls(_call("bpf_map_get_fd_by_id", number, about=f"map {number}"))

    def close(self) -> None:
        """Let go; the kernel keeps the map as long as a program uses it."""
        os.close(self.fd)

    def update(self, key: bytes, value: bytes) -> None:
        """Insert or replace."""
        self._check(key, value, 1)
        _call("bpf_map_update_elem", self.fd, key, value, 0, about=f"map {self.name}")

    def lookup(self, key: bytes) -> bytes | None:
        """The value, None when there is none."""
        value = ctypes.create_string_buffer(self.value_size)
        if library().bpf_map_lookup_elem(self.fd, key, value) < 0:
            self._absent("bpf_map_lookup_elem")
            return None
        return value.raw

    def delete(self, key: bytes) -> bool:
        """Whether it was there."""
        if library().bpf_map_delete_elem(self.fd, key) < 0:
            self._absent("bpf_map_delete_elem")
            return False
        return True

    def keys(self) -> Iterator[bytes]:
        """All keys, one system call each; what changes meanwhile may be missing or come twice."""
        buffer, key = ctypes.create_string_buffer(self.key_size), None
        while library().bpf_map_get_next_key(self.fd, key, buffer) == 0:
            key = buffer.raw
            yield key
        self._absent("bpf_map_get_next_key")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values of a hash map, with few system calls; what changes meanwhile may come twice or not."""
        size = min(_BATCH, self.max_entries)
        keys, values = (ctypes.create_string_buffer(size * one) for one in (self.key_size, self.value_size))
        place, before, last = ctypes.create_string_buffer(max(self.key_size, 4)), None, False
        while not last:
            count = c_uint32(size)
            arguments = (self.fd, before, place, keys, values, byref(count), None)
            if library().bpf_map_lookup_batch(*arguments) < 0:
                self._absent("bpf_map_lookup_batch")
                last = True
            before, key, value = place, keys.raw, values.raw
            for i in range(count.value):
                yield (
                    key[i * self.key_size : (i + 1) * self.key_size],
                    value[i * self.value_size : (i + 1) * self.value_size],
                )

    def update_batch(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Insert or replace many, with few system calls. After a LibbpfError some are changed and some not."""
        for at in range(0, len(keys), _BATCH):
            some, data = keys[at : at + _BATCH], b"".join(values[at : at + _BATCH])
            self._check(b"".join(some), data, len(some))
            count = c_uint32(len(some))
            _call("bpf_map_update_batch", self.fd, b"".join(some), data, byref(count), None, about=f"map {self.name}")

    def delete_batch(self, keys: Sequence[bytes]) -> None:
        """Delete many; LibbpfError (ENOENT) when one is not there: those behind it are then left."""
        for at in range(0, len(keys), _BATCH):
            some = keys[at : at + _BATCH]
            count = c_uint32(len(some))
            _call("bpf_map_delete_batch", self.fd, b"".join(some), byref(count), None, about=f"map {self.name}")

    def _check(self, keys: bytes, values: bytes, count: int) -> None:
        """The kernel would read beyond what is too short."""
        if (len(keys), len(values)) != (count * self.key_size, count * self.value_size):
            sizes = f"{self.key_size} and {self.value_size}"
            raise ValueError(f"map {self.name}: {count} keys of {len(keys)}, values of {len(values)}; expected {sizes}")

    def _absent(self, what: str) -> None:
        if (code := ctypes.get_errno()) != errno.ENOENT:
            raise LibbpfError(f"{what} map {self.name}", code)


@dataclass(frozen=True, slots=True)
class Run:
    """What a test run came to: the program's result, the packet and its context afterwards, nanoseconds per run."""

    result: int
    packet: bytes
    context: SkBuff
    nanoseconds: int


class Program:
    """One loaded program. `tag` is the kernel's digest of its instructions: equal for equal programs."""

    def __init__(self, fd: int) -> None:
        """Takes the file descriptor over."""
        self.fd = fd
        self._ids = (c_uint32 * 64)()
        info = ProgramInfo(nr_map_ids=len(self._ids), map_ids=ctypes.addressof(self._ids))
        _call("bpf_obj_get_info_by_fd", fd, byref(info), byref(c_uint32(ctypes.sizeof(info))), about="of a program")
        self.id: int = info.id
        self.name: str = info.name.decode()
        self.tag = bytes(info.tag)
        self.map_ids: tuple[int, ...] = tuple(self._ids[: info.nr_map_ids])

    @classmethod
    def by_id(cls, number: int) -> Program:
        """A program that some process has loaded. LibbpfError (ENOENT) when it is gone."""
        return cls(_call("bpf_prog_get_fd_by_id", number, about=f"program {number}"))

    def maps(self) -> dict[str, Map]:
        """The maps that live as long as it, by name, opened anew: all of its object, whichever of them it uses."""
        opened = [Map.by_id(number) for number in self.map_ids]
        return {one.name: one for one in opened}

    def close(self) -> None:
        """Let go; the kernel keeps the program where it is attached."""
        os.close(self.fd)

    def ask(self, packet: bytes, mark: int) -> int:
        """Its result for an Ethernet frame with this mark, by a test run of which nothing else is asked."""
        before = SkBuff(mark=mark)
        options = RunOptions(
            sz=ctypes.sizeof(RunOptions),
            data_in=ctypes.cast(c_char_p(packet), c_void_p),
            data_size_in=len(packet),
            ctx_in=ctypes.addressof(before),
            ctx_size_in=ctypes.sizeof(before),
        )
        _call("bpf_prog_test_run_opts", self.fd, byref(options), about=f"program {self.name}")
        return int(options.retval)

    def run(self, packet: bytes, repeat: int = 1, **context: int) -> Run:
        """BPF_PROG_TEST_RUN with an Ethernet frame; `context` sets fields of __sk_buff (gso_size, mark, ...)."""
        out, before, after = ctypes.create_string_buffer(1 << 16), SkBuff(**context), SkBuff()
        options = RunOptions(
            sz=ctypes.sizeof(RunOptions),
            data_in=ctypes.cast(c_char_p(packet), c_void_p),
            data_size_in=len(packet),
            data_out=ctypes.addressof(out),
            data_size_out=len(out),
            ctx_in=ctypes.addressof(before),
            ctx_size_in=ctypes.sizeof(before),
            ctx_out=ctypes.addressof(after),
            ctx_size_out=ctypes.sizeof(after),
            repeat=repeat,
        )
        _call("bpf_prog_test_run_opts", self.fd, byref(options), about=f"program {self.name}")
        return Run(options.retval, out.raw[: options.data_size_out], after, options.duration)


class Object:
    """An object file loaded into the kernel: its programs and maps by name, as long as it is not closed."""

    def __init__(
        self, path: Path, max_entries: Mapping[str, int] | None = None, reuse: Mapping[str, Map] | None = None
    ) -> None:
        """`max_entries`: sizes of maps that are to differ from those of the file. `reuse`: maps that take the place of
        the file's maps of the same names.

        LibbpfError when the file is no object, a size is for no map, a map to reuse has another type or other sizes of
        key and value than the file's, or the kernel refuses.
        """
        lib, log = library(), ctypes.create_string_buffer(_LOG_SIZE)
        lib.libbpf_set_print(None)  # what went wrong is in the exceptions
        options = OpenOptions(sz=ctypes.sizeof(OpenOptions), kernel_log_buf=ctypes.addressof(log))
        options.kernel_log_size = _LOG_SIZE
        if not path.exists():
            raise LibbpfError(f"{path}", errno.ENOENT)
        self._object = lib.bpf_object__open_file(os.fsencode(path), byref(options))
        if not self._object:
            raise LibbpfError(f"{path}: not a BPF object")
        try:
            sizes, maps = dict(max_entries or {}), self._each("map")
            for name, number in sizes.items():
                if name not in maps:
                    raise LibbpfError(f"{path}: no map {name}")
                _call("bpf_map__set_max_entries", maps[name], number, about=f"map {name}")
            for name, held in (reuse or {}).items():
                self._reuse(path, maps.get(name), held)
            if lib.bpf_object__load(self._object) < 0:
                text = log.value.decode(errors="replace").strip()
                raise LibbpfError(f"{path.name}: the kernel refuses it", ctypes.get_errno(), text)
            self.programs = {n: Program(os.dup(lib.bpf_program__fd(p))) for n, p in self._each("program").items()}
            self.maps = {name: Map(os.dup(lib.bpf_map__fd(m))) for name, m in maps.items()}
            for program in self.programs.values():  # so that whoever finds one program has all maps
                for one in self.maps.values():
                    _call("bpf_prog_bind_map", program.fd, one.fd, None, about=f"map {one.name} to {program.name}")
        finally:
            lib.bpf_object__close(self._object)

    def _reuse(self, path: Path, one: int | None, held: Map) -> None:
        lib = library()
        if one is None:
            raise LibbpfError(f"{path.name}: no map {held.name}")
        shape = lib.bpf_map__type(one), lib.bpf_map__key_size(one), lib.bpf_map__value_size(one)
        if shape != held.shape:
            raise LibbpfError(f"{path.name}: map {held.name} is of another shape: {shape} instead of {held.shape}")
        _call("bpf_map__reuse_fd", one, held.fd, about=f"map {held.name}")

    def close(self) -> None:
        """Let go of all programs and maps."""
        for program in self.programs.values():
            program.close()
        for one in self.maps.values():
            one.close()

    def _each(self, kind: str) -> dict[str, int]:
        """The programs or maps of the file by name."""
        lib, found, one = library(), {}, None
        while one := getattr(lib, f"bpf_object__next_{kind}")(self._object, one):
            found[getattr(lib, f"bpf_{kind}__name")(one).decode()] = one
        return found
