"""Work beside the event loop's flow that is never abandoned half-way."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def see_through(future: asyncio.Future[T]) -> T:
    """Wait for the future's end however often we are cancelled meanwhile; then pass that on.

    A failure of the future that nobody will see for the cancellation is kept as its cause.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from (None if future.cancelled() else future.exception())
    return future.result()


async def in_thread(
    executor: Executor | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run the function in a thread and see it to its end, even when cancelled meanwhile.

    asyncio's own to_thread returns at once on cancellation while the thread goes on; a file would be
    closed or removed under its hands.
    """
    loop = asyncio.get_running_loop()
    return await see_through(loop.run_in_executor(executor, lambda: function(*args, **kwargs)))
