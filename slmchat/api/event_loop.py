"""A call that takes long, from a program with an event loop: the loop goes on meanwhile.

Each call has a thread of its own. Those of `asyncio.to_thread` are few and belong to the whole program, which looks up
names and reads files in them: questions that wait there for their turn with the model would keep all of that waiting.

Knows: event loops and threads. Refuses to know: models.
"""

import contextlib
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def in_thread(
    function: Callable[Parameters, Result], *arguments: Parameters.args, **keywords: Parameters.kwargs
) -> Result:
    """What the function gives. To cancel the task leaves the function alone. Raises what it raises."""
    import asyncio

    loop = asyncio.get_running_loop()
    told: asyncio.Future[Result] = loop.create_future()
    context = contextvars.copy_context()

    def tell(result: Callable[[], None]) -> None:
        if not told.done():  # the task was cancelled
            result()

    def work() -> None:
        try:
            made = context.run(function, *arguments, **keywords)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            said = partial(told.set_exception, error)
        else:
            said = partial(told.set_result, made)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(tell, said)

    threading.Thread(target=work, daemon=True, name="slm call").start()
    return await told
