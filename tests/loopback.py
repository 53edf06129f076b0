"""An HTTP server of the tests on the loopback interface: it starts and ends without a pause.

Knows: threads, sockets. Refuses to know: what is asked and answered.
"""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections, writes no log, and sends each part at once: with Nagle's algorithm the next one would wait for
    the acknowledgement of the last, 40 ms."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def log_message(self, *_: object) -> None:
        pass


class LoopbackServer(ThreadingHTTPServer):
    """`start` and `stop`. A client that goes away, or speaks no TLS, is no error here."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._is_ending = False
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections. `serve_forever` would look for its end now and then; this one is woken."""
        self._is_ending = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self.server_close()

    def _accept(self) -> None:
        while not self._is_ending:
            self.handle_request()

    def handle_error(self, *_: object) -> None:
        pass
