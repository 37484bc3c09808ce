"""Raises the limit on open files, usually 1024, since each connection counts as one."""

from __future__ import annotations

import resource

from service.bench.errors import OptionError
from service.bench.options import BenchOptions
from service.bench.shares import split

_OTHER_FILES = 64  # in addition to connections
_FOR_A_WORKER = 2  # while it is being started; then one


def allow_open_files(options: BenchOptions, processes: int) -> None:
    """Raise the limit as far as `processes` of the generator need; raises `OptionError`.

    The limit is per process and inherited from this one, which also has a socket to each process
    if there are several.
    """
    connections = max(split(options.most_connections, processes))
    each = connections + _OTHER_FILES
    here = _OTHER_FILES + (_FOR_A_WORKER * processes if processes > 1 else 0)
    needed = max(each, here)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard == resource.RLIM_INFINITY or hard >= needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    elif hard < here:
        raise OptionError(
            f"--processes: {processes} need {here} open files, but only {hard} are allowed (ulimit)"
        )
    else:
        flag = "--clients" if options.mode == "closed" else "--connections"
        raise OptionError(
            f"{flag}: {connections} per process need {each} open files, but only {hard} are "
            "allowed (ulimit); with more --processes each needs fewer"
        )
