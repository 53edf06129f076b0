"""Something that is done again and again beside the main thread, which may be inside native code for seconds.

Knows: one daemon thread and its end. Refuses to know: what is done.
"""

import threading
from collections.abc import Callable


class Ticker:
    """Calls `act` every `period_s` seconds until `stop`."""

    def __init__(self, act: Callable[[], None], period_s: float) -> None:
        self._act = act
        self._period_s = period_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="ticker")
        self._thread.start()

    def stop(self) -> None:
        """No call runs, and none comes, once this has returned."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(self._period_s):
            self._act()
