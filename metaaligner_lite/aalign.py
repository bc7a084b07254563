"""aalign(): align without blocking an event loop, made for policies and aligners on servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .align import Correction, align
from .aligners import Aligner
from .gate import Gate
from .generation import OnText, Stop
from .objectives import Objective
from .policies import Policy
from .prompts import Message

if TYPE_CHECKING:
    import asyncio


async def aalign(
    query: str,
    objectives: str | Iterable[str | Objective],
    *,
    policy: Policy,
    aligner: Aligner,
    history: Sequence[Message] = (),
    rounds: int = 1,
    on_answer: OnText | None = None,
    on_edit: OnText | None = None,
    stop: Stop | None = None,
    gate: Gate | None = None,
) -> Correction:
    """As `align`, while the event loop goes on; any number may run at once. Raises as `align`.

    Requests to servers run side by side, texts of one GGUF model one after the other. `on_answer` and `on_edit` are
    called in the event loop, `stop` is not. Cancelled, it ends what runs, hangs up on servers, and then is over.
    """
    import asyncio  # 60 ms that `mal --help` does without

    loop = asyncio.get_running_loop()
    cancelled = threading.Event()

    def here(listener: OnText | None) -> OnText | None:
        return (lambda text: _tell(loop, listener, text)) if listener else None

    def work() -> Correction:
        return align(
            query,
            objectives,
            policy=policy,
            aligner=aligner,
            history=history,
            rounds=rounds,
            on_answer=here(on_answer),
            on_edit=here(on_edit),
            stop=lambda: cancelled.is_set() or (stop is not None and stop()),
            gate=gate,
        )

    # A thread of its own: the loop's shared ones are few, and each would be held until a server has answered.
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="aalign")
    running = asyncio.ensure_future(loop.run_in_executor(worker, work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([running])  # until then it uses the models, which the caller may be about to close
        if not running.cancelled():
            running.exception()
        raise
    finally:
        worker.shutdown(wait=False)


def _tell(loop: asyncio.AbstractEventLoop, listener: Callable[[str], None], text: str) -> None:
    loop.call_soon_threadsafe(listener, text)
