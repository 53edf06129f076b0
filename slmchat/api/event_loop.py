"""A call that takes long, from a program with an event loop: the loop goes on meanwhile.

Each call has a thread of its own. Those of `asyncio.to_thread` are few and belong to the whole program, which looks up
names and reads files in them: an answer would keep all of that waiting. A question that waits for its turn with the
model has no thread yet (`in_turn`): of a thousand that are asked at once, one has.

Knows: event loops, threads, that turns are waited for. Refuses to know: models.
"""

import contextlib
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from slmchat.api.turns import ModelTurn, Turns

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def in_thread(
    function: Callable[Parameters, Result], *arguments: Parameters.args, **keywords: Parameters.kwargs
) -> Result:
    """What the function gives. To cancel the task leaves the function alone. Raises what it raises."""
    return await _told(lambda begin: begin(), partial(function, *arguments, **keywords))


async def in_turn(turns: Turns, turn: ModelTurn, function: Callable[[], Result]) -> Result:
    """The same of a function that has the turn when it begins, and gives it back. A task that is cancelled before has
    to cancel the turn."""
    return await _told(lambda begin: turns.take_later(turn, begin), function)


async def _told(start: Callable[[Callable[[], bool]], object], function: Callable[[], Result]) -> Result:
    """What the function gives, in a thread that begins when `start`, or somebody whom it has asked, calls its argument.
    That says whether there is a thread for it."""
    import asyncio

    loop = asyncio.get_running_loop()
    told: asyncio.Future[Result] = loop.create_future()
    context = contextvars.copy_context()

    def tell(result: Callable[[], None]) -> None:
        if not told.done():  # the task was cancelled
            result()

    def say(result: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(tell, result)

    def work() -> None:
        try:
            made = context.run(function)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            say(partial(told.set_exception, error))
        else:
            say(partial(told.set_result, made))

    def begin() -> bool:
        try:
            threading.Thread(target=work, daemon=True, name="slm call").start()
        except RuntimeError as error:  # no more threads for this process
            say(partial(told.set_exception, error))
            return False
        return True

    start(begin)
    return await told
