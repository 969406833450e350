"""Programs and maps of an earlier life: found by the filters that hold them, and taken over.

Who may take a program by its id (CAP_SYS_ADMIN) needs nothing else. For who may not, the service manager keeps the file
descriptors of what is attached from one process to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mip6.dataplane.interface import Counters
from mip6.dataplane.libbpf import LibbpfError, Map, Object, Program
from mip6.dataplane.maps import OBJECT, FastPathMaps, load
from mip6.system import log, notify
from mip6.system.trafficcontrol import Filter

_PROGRAMS, _MAPS = "fastpath-programs", "fastpath-maps"  # as the service manager calls what it keeps


@dataclass(frozen=True, slots=True)
class _Running:
    """Programs by id, and by name the maps of their object; nothing when we may not have them."""

    programs: Mapping[int, Program]
    maps: Mapping[str, Map]

    def close(self, *, maps: bool = True) -> None:
        for program in self.programs.values():
            program.close()
        for one in self.maps.values() if maps else ():
            one.close()


def hold(attached: Object) -> None:
    """These programs are attached now: the next process is to have them."""
    notify.keep(_PROGRAMS, [one.fd for one in attached.programs.values()])
    notify.keep(_MAPS, [one.fd for one in attached.maps.values()])


def release() -> None:
    """Nothing is attached any more."""
    notify.keep(_PROGRAMS, [])
    notify.keep(_MAPS, [])


def take_over(filters: Collection[Filter]) -> tuple[Object, Mapping[str, Map] | None]:
    """Our programs: over the maps of the running ones when those are the same as ours; else over new maps, with the
    old ones besides (none when we may not have them), None when nothing runs or it was taken over."""
    running = _look(filters)
    if not filters:
        return load(), None
    reason = "its maps cannot be had"
    if running.maps:
        try:
            loaded = Object(OBJECT, reuse=running.maps)
        except LibbpfError as error:
            reason = str(error).splitlines()[0]
        else:
            other = next((one.program for one in filters if not _is_same(one, running, loaded)), None)
            if other is None:
                running.close()
                log.event("fast_path_adopted", programs=len(filters))
                return loaded, None
            loaded.close()
            reason = f"{other} is another program now"
    running.close(maps=False)
    log.event("fast_path_replaced", reason=reason)
    return load(), running.maps


def counted(old: Mapping[str, Map]) -> Counters:
    """What was counted in the maps of an earlier life; nothing if their layout was another one."""
    try:
        return FastPathMaps(old).counters()
    except LibbpfError as error:
        log.event("fast_path_counts_anew", reason=str(error))
        return Counters()


def _look(filters: Collection[Filter]) -> _Running:
    ids = {one.program_id for one in filters}
    kept = _Running(
        {one.id: one for one in map(Program, notify.kept(_PROGRAMS))},
        {one.name: one for one in map(Map, notify.kept(_MAPS))},
    )
    map_ids = {one.id for one in kept.maps.values()}
    if any(set(kept.programs[number].map_ids) == map_ids for number in ids & kept.programs.keys()):
        return kept
    kept.close()
    programs: dict[int, Program] = {}
    maps: dict[str, Map] = {}
    for one in filters:
        try:
            if one.program_id not in programs:
                programs[one.program_id] = Program.by_id(one.program_id)
            maps = maps or programs[one.program_id].maps()
        except LibbpfError as error:
            log.event("fast_path_not_readable", "warning", program=one.program, reason=str(error))
    return _Running(programs, maps)


def _is_same(one: Filter, running: _Running, ours: Object) -> bool:
    program = running.programs.get(one.program_id)
    return program is not None and one.program in ours.programs and ours.programs[one.program].tag == program.tag
