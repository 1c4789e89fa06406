"""Blocking work beside the event loop that is never abandoned half-way."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(
    executor: Executor | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run the function in a thread and see it to its end, even when cancelled meanwhile.

    asyncio's own to_thread returns at once on cancellation while the thread goes on; a file would be
    closed or removed under its hands. The cancellation is passed on once the function has ended; the
    function's own failure is then kept as its context.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(executor, lambda: function(*args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        failure = future.exception()
        raise cancelled from failure
    return future.result()
