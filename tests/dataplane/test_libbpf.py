"""libbpf through ctypes: the structs are those of the C headers, and a refusal comes with the verifier's log."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from mip6.dataplane import layout
from mip6.dataplane.libbpf import LibbpfError, Object, Program
from mip6.dataplane.libbpfstructs import MapInfo, OpenOptions, ProgramInfo, RunOptions, SkBuff
from mip6.dataplane.maps import OBJECT, PROGRAMS, FastPathMaps, load
from mip6.dataplane.sharedmemory import ELIMINATE
from mip6.forwarding import DropReason
from tests.dataplane.fastpath import compile_object

LAYOUT = OBJECT.with_name("fastpath") / "layout.h"
WHOLE = {"bpf_object_open_opts": OpenOptions, "bpf_test_run_opts": RunOptions, "__sk_buff": SkBuff}
BEGINNING = {"bpf_prog_info": ProgramInfo, "bpf_map_info": MapInfo}  # the kernel fills in what there is room for
RECORDS = {
    "settings": layout.SETTINGS,
    "owner_key": layout.OWNER_KEY,
    "owner": layout.OWNER,
    "chunk_key": layout.CHUNK_KEY,
    "tunnel": layout.TUNNEL,
    "rule": layout.RULE,
    "labels": layout.LABELS,
    "span": layout.SPAN,
    "weights": layout.WEIGHTS,
    "count": layout.COUNT,
    "ends": layout.ENDS,
}


def check(tmp_path: Path, source: str, *options: str) -> None:
    """The compiler agrees with every assertion."""
    file = tmp_path / "check.c"
    file.write_text(source)
    done = subprocess.run(["clang", "-fsyntax-only", *options, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_structs_of_libbpf_and_the_kernel(tmp_path: Path) -> None:
    lines = ["#include <stddef.h>", "#include <bpf/bpf.h>", "#include <bpf/libbpf.h>"]
    for name, struct in (WHOLE | BEGINNING).items():
        for field, *_ in struct._fields_:
            if field not in ("unused", "tstamp_type"):  # a bit field without name; one that older headers lack
                offset = getattr(struct, field).offset
                lines.append(f'_Static_assert(offsetof(struct {name}, {field}) == {offset}, "{name}.{field}");')
    lines += [
        f'_Static_assert(sizeof(struct {name}) == {ctypes.sizeof(struct)}, "{name}");'
        for name, struct in WHOLE.items()
        if name != "bpf_object_open_opts"  # grows; its first member says how much there is
    ]
    check(tmp_path, "\n".join(lines))


def test_records_of_the_fast_path(tmp_path: Path) -> None:
    lines = [f'#include "{LAYOUT}"']
    lines += [f'_Static_assert(sizeof(struct {name}) == {one.size}, "{name}");' for name, one in RECORDS.items()]
    lines += [
        f'_Static_assert({name} == {value}, "{name}");'
        for name, value in {
            **{reason.name: number for number, reason in enumerate(DropReason)},
            "REASONS": len(DropReason),
            "CHUNK": layout.CHUNK,
            "MAX_CHUNKS": layout.MAX_CHUNKS,
            "MAX_TUNNELS": layout.MAX_TUNNELS,
            "NO_SLOT": layout.NO_SLOT,
        }.items()
    ]
    check(tmp_path, "\n".join(lines), "-target", "bpf", *headers())


def headers() -> list[str]:
    """Where asm/types.h is on Debian."""
    return [f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}"]


@pytest.mark.parametrize("content", [b"", b"no object", b"\x7fELF" + bytes(60)])
def test_what_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "some.bpf.o"
    file.write_bytes(content)
    with pytest.raises(LibbpfError, match=r"some\.bpf\.o: not a BPF object"):
        Object(file)


def test_a_missing_object_is_named(tmp_path: Path) -> None:
    with pytest.raises(LibbpfError, match=r"none\.bpf\.o: No such file"):
        Object(tmp_path / "none.bpf.o")


@pytest.mark.netns
class TestInTheKernel:
    @pytest.fixture(autouse=True)
    def root(self) -> None:
        if os.geteuid():
            pytest.skip("needs root: BPF")

    def test_a_refusal_comes_with_the_log_of_the_verifier(self, tmp_path: Path) -> None:
        source = tmp_path / "bad.c"
        source.write_text(
            "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
            'SEC("tc") int beyond(struct __sk_buff *skb) { return *(char *)(long)skb->data; }\n'
        )
        output = tmp_path / "bad.bpf.o"
        subprocess.run(["clang", "-O2", "-g", "-target", "bpf", *headers(), "-c", source, "-o", output], check=True)
        with pytest.raises(LibbpfError, match="invalid access to packet") as caught:
            Object(output)
        assert "offset is outside of the packet" in caught.value.log

    def test_the_object_that_is_shipped_is_that_of_the_sources(self, tmp_path: Path) -> None:
        """Otherwise `make setup` has not run since they changed."""
        fresh, shipped = Object(compile_object(tmp_path, OBJECT.with_suffix(".c"))), load()
        assert {name: one.tag for name, one in fresh.programs.items()} == {
            name: one.tag for name, one in shipped.programs.items()
        }
        fresh.close()
        shipped.close()

    def test_a_program_leads_to_all_maps_of_its_object(self) -> None:
        loaded = load()
        try:
            assert set(loaded.programs) == {*PROGRAMS, ELIMINATE}
            for program in loaded.programs.values():
                again = Program.by_id(program.id)
                maps = again.maps()
                assert (again.tag, again.name) == (program.tag, program.name)
                assert {one.id for one in maps.values()} == {one.id for one in loaded.maps.values()}
                FastPathMaps(maps).close()
                again.close()
        finally:
            loaded.close()

    def test_maps_in_bulk_and_one_by_one(self) -> None:
        loaded = load(nodes=4000)
        pairs = loaded.maps["pairs"]
        keys = [number.to_bytes(pairs.key_size, "big") for number in range(10_000)]
        values = [number.to_bytes(4, "big") for number in range(10_000)]
        pairs.update_batch(keys, values)
        assert dict(pairs.items()) == dict(zip(keys, values, strict=True))
        assert set(pairs.keys()) == set(keys)
        pairs.delete_batch(keys[1:])
        assert list(pairs.items()) == [(keys[0], values[0])] and pairs.lookup(keys[1]) is None
        assert pairs.delete(keys[0]) and not pairs.delete(keys[0])
        with pytest.raises(ValueError, match="map pairs"):
            pairs.update(b"short", values[0])
        with pytest.raises(LibbpfError, match="map pairs"):
            pairs.update_batch([number.to_bytes(pairs.key_size, "big") for number in range(20_000)], [b"0000"] * 20_000)
        loaded.close()
