"""`python3 -m cdmtaskservice.executor`: see --help."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .failures import EXIT_DONE, EXIT_GAVE_UP, EXIT_INTERNAL, EXIT_USAGE, Ended, EndedByEngine
from .jsonlog import Log
from .options import CheckOptions, CleanupOptions, RunOptions, parse


def main(argv: Sequence[str]) -> int:
    """Run a container or clean up, as `argv` says. The exit code; see --help."""
    if sys.getfilesystemencoding() != "utf-8":
        # Arguments, file names and environment values are UTF-8 whatever the worker's locale is.
        os.execv(  # noqa: S606
            sys.executable, [sys.executable, "-X", "utf8", "-m", "cdmtaskservice.executor", *argv]
        )
    options = parse(argv, os.environ)
    # The image's user may be anyone, and must be able to read its inputs.
    os.umask(0o022)
    if isinstance(options, CleanupOptions):
        from .cleaning import clean_up

        return clean_up(options.work_dir, Log())
    if isinstance(options, CheckOptions):
        from .checking import check

        return check(options, Log())
    return _execute(options)


def _execute(options: RunOptions) -> int:
    from .cleaning import clean_leftovers
    from .run import Run
    from .running import sweep_in_background
    from .stopping import Stop, stopped_by_signals
    from .workdir import WorkDir, WorkDirBusy, WorkDirError

    launched_for = {"run": options.run} if options.run is not None else {"attempt": options.attempt}
    log = Log(job=options.job, container=options.container, **launched_for)
    stop = Stop()
    with stopped_by_signals(stop):
        try:
            with open(options.token_file) as file:
                token = file.read().strip()
            if not token or not token.isprintable() or " " in token:
                raise ValueError(f"{options.token_file} holds no token")
            work = WorkDir.hold(options.work_dir, create=True)
            if work is not None and work.used():
                # An executor was killed here. What it left must not run beside what starts now.
                if not clean_leftovers(work, log):
                    work.release()
                    return EXIT_GAVE_UP
                work = WorkDir.hold(options.work_dir, create=True)
            assert work is not None
            try:
                run = Run(options, token, work, stop, log)
            except ValueError:
                work.remove()
                raise
        except WorkDirBusy as error:
            log.event("cannot_start", error=str(error))
            return EXIT_GAVE_UP
        except (WorkDirError, OSError, ValueError) as error:
            log.event("cannot_start", error=str(error))
            return EXIT_USAGE
        code = EXIT_INTERNAL
        sweep_in_background(options.cache_dir, log)
        try:
            work.lay_out()
            run.go()
            code = EXIT_DONE
        except Ended as end:
            log.event("ended", why=str(end))
            code = end.exit_code
            if isinstance(end, EndedByEngine):
                run.say_ending(str(end))
        except Exception as error:
            import traceback

            log.event("failed", error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
        finally:
            if not clean_leftovers(work, log):
                log.event("not_cleaned_up", work_dir=work.path)
        log.event("over", exit_code=code, **_spent())
        return code


def _spent() -> dict[str, float]:
    """Seconds since the engine started this process, whatever it was then, CPU seconds, and memory at its peak."""
    import resource

    from .leftovers import process_start

    with open("/proc/uptime") as uptime:
        age = float(uptime.read().split()[0]) - int(process_start(os.getpid())) / os.sysconf("SC_CLK_TCK")
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(u.ru_utime + u.ru_stime for u in used)
    return {"seconds": round(age, 2), "cpu_seconds": round(cpu, 2), "max_memory": used[0].ru_maxrss * 1024}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
