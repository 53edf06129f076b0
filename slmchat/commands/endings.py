"""How an answer of `slm run` ended: what is told of it, and the exit code.

Knows: the sentences. Refuses to know: how an answer is made, where it goes. It imports nothing that takes time: an
answer from the memory of a server has ended before that is there.
"""

from slmchat.errors import ExitCode
from slmchat.terminal.console import Console


def tell_of_silence(why: str | None, thinking: str, console: Console) -> None:
    """An answer that is empty, or all thought: why (None: it is not), and what helps."""
    if why is None:
        return
    if thinking:
        hint = "--think-budget N limits the thought, --think off leaves it out; more room for both: -n N"
    else:
        hint = "another --seed, or another wording; slm doctor MODEL tests the model"
    console.warn(f"{why}.", hint)


def exit_code(reason: str, console: Console, n_ctx: int, n_trained: int) -> ExitCode:
    """The exit code of a completion that ended so; warns when it went round in circles or its window was full.

    `reason`: a `FinishReason`. `n_ctx`: the window in tokens (0: not told); `n_trained`: what it was trained for.
    """
    if reason == "interrupted":
        return ExitCode.INTERRUPTED
    if reason == "repetition":
        console.warn(
            "the completion went round in circles, and was ended.",
            "another --seed, or --repeat-penalty 1.1; with -n N it goes on to N tokens",
        )
        return ExitCode.DONE
    if reason == "context":
        larger = min(n_trained, 2 * n_ctx)
        way = f"twice as much: --ctx {larger}" if larger == 2 * n_ctx else f"the most for this model: --ctx {larger}"
        way = way if larger > n_ctx else f"the model was trained for {n_trained:,}; a shorter input leaves more"
        size = f"context window of {n_ctx:,} tokens ({way})" if n_ctx else "context window"
        console.warn(f"the completion ran into the end of the {size}.")
        return ExitCode.CONTEXT
    return ExitCode.DONE
