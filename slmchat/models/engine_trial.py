"""Before a model is loaded: llama.cpp is tried on this machine where that is needed, and after a crash with less.

Knows: what a crash leads to, and the sentence for each outcome.
Refuses to know: how llama.cpp is tried (engine/self_test.py), where verdicts are kept (engine/verdicts.py), how a crash
is noticed (engine/crash_guard.py).
"""

from dataclasses import replace

from slmchat.catalog.records import Installed
from slmchat.engine import crash_guard, native, verdict_place, verdicts
from slmchat.engine.crash_guard import Ended
from slmchat.engine.limits import SelfTestVerdict
from slmchat.errors import ExitCode, SlmError
from slmchat.privacy.seal import status
from slmchat.settings import Settings

_MENDS = "slm doctor tells what mends it"

# What has been told in this process: a program may load many models on its one machine.
_told: verdicts.KnownVerdict | None = None


def settle(installed: Installed, settings: Settings, threads: int, *, is_forced: bool) -> list[str]:
    """Find out what may be used with this model; what the user has to know of it, in sentences.

    What was found out about the library is told once in a process, however many models it loads. A crash is told once;
    with `--private` it is told again, because nothing is written. `is_forced`: go on even where nothing works.
    Raises `SlmError`: BUG when llama.cpp crashes even in its plain way, DAMAGED when it does so with this model alone.
    """
    place = verdict_place.directory(settings.paths.cache)
    data = settings.paths.data
    ended = crash_guard.last_end(data, installed.path)
    is_kept = not settings.is_private
    has_crashed = ended is Ended.CRASHED and not verdicts.library(place, is_kept=is_kept).is_tried
    known = verdicts.library(place, is_forced=has_crashed, is_kept=is_kept)
    if known.verdict.is_broken and not is_forced:
        raise _broken(known.verdict)
    global _told
    found = _found(known.verdict) if known.is_new and known is not _told else []
    _told = known
    if ended is Ended.CRASHED:
        found = [_after_crash(installed, known, threads, is_kept=is_kept, is_forced=is_forced)]
    elif ended is Ended.KILLED:
        found.append(
            f"the last time, slm was killed while it was loading {installed.key} or beginning its first answer, as the "
            "system does when memory runs out; slm show tells how much it needs, and a smaller window (--ctx N) less."
        )
    if is_kept:
        crash_guard.forget_last_end(data, installed.path)
    return found


def _broken(verdict: SelfTestVerdict) -> SlmError:
    return SlmError(
        f"llama.cpp {verdict.fault} on this machine even with its most careful settings.",
        hint="slm doctor tells what mends it; --force goes on all the same",
        exit_code=ExitCode.BUG,
    )


def _found(verdict: SelfTestVerdict) -> list[str]:
    """What the self-test of the library has just found; nothing where all is well, or nothing could be found out."""
    if verdict.untried or not verdict.limits.forbidden:
        return []
    return [f"llama.cpp {fault_in_words(verdict)}; slm goes on without, and that works: {_MENDS}."]


def fault_in_words(verdict: SelfTestVerdict) -> str:
    """ "crashes on this machine (SIGSEGV) with flash attention"."""
    verb, bracket, detail = verdict.fault.partition(" (")
    return f"{verb} on this machine{bracket}{detail} with {verdict.limits.in_words()}"


def _after_crash(
    installed: Installed, known: verdicts.KnownVerdict, threads: int, *, is_kept: bool, is_forced: bool
) -> str:
    """Try what has crashed with less, keep what works and say so. Raises `SlmError` (DAMAGED) when nothing does."""
    last = f"the last time, slm crashed while it was loading {installed.key} or beginning its first answer"
    if known.is_new and known.verdict.limits.forbidden:
        return f"{last}; llama.cpp {fault_in_words(known.verdict)}: slm goes on without, and that works ({_MENDS})."
    from slmchat.engine import self_test  # and what starts processes: not for every run

    before = verdicts.of_model(installed.path)
    within = known.verdict.limits
    is_without_gpu = native.has_gpu_backend() and status().is_local_closed
    if is_without_gpu:  # behind the seal no child can start a GPU: what it finds is true of the processor alone
        within = within.without("has_gpu")
    verdict = self_test.try_model(installed.path, threads, None if before is None else before.limits, within)
    if is_without_gpu:
        verdict = replace(verdict, limits=verdict.limits.without("has_gpu"))
    if verdict.untried:
        return f"{last}; it could not be tried again in a process of its own ({verdict.untried})."
    if verdict.is_broken and not is_forced:
        raise SlmError(
            f"llama.cpp {verdict.attempts[-1].fault} while it loads {installed.key}, even with its most careful "
            "settings: the file may be damaged.",
            hint=f"slm verify {installed.key}; --force goes on all the same",
            exit_code=ExitCode.DAMAGED,
        )
    if is_kept:
        verdicts.keep_of_model(installed.path, verdict)
    if not verdict.limits.forbidden:
        return f"{last}; it was tried again in a process of its own and works now."
    return f"{last}; it was tried again without {verdict.limits.in_words()}, and so it works now ({_MENDS})."
