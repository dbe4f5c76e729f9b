"""A TCP relay on this machine, in place of a bad network: it delays what passes, and can hold everything up or cut the line."""

import contextlib
import queue
import socket
import threading
import time


class Relay:
    """Passes on connections to `target` (a port). `port` is its own.

    Attributes:
        delay: seconds that bytes take, in either direction.
        held: while True, nothing passes (the network is split, and nobody is told).
    """

    def __init__(self, target, delay=0.0):
        self.delay, self.held, self._target, self._open = delay, False, target, True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lines = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Close all connections."""
        for line in self._lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self._lines.clear()

    def close(self):
        self._open = False
        self._listener.close()
        self.cut()

    def _accept(self):
        while self._open:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                if not self._open:
                    return
                near.close()
                continue
            self._lines += [near, far]
            for source, sink in ((near, far), (far, near)):
                waiting = queue.SimpleQueue()
                threading.Thread(target=self._read, args=(source, waiting), daemon=True).start()
                threading.Thread(target=self._write, args=(waiting, sink), daemon=True).start()

    def _read(self, source, waiting):
        data = b"?"
        while data:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            waiting.put((time.monotonic() + self.delay, data))

    def _write(self, waiting, sink):
        while True:
            due, data = waiting.get()
            while self.held and self._open:
                time.sleep(0.01)
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if data:
                    sink.sendall(data)
                else:
                    return sink.shutdown(socket.SHUT_WR)
            except OSError:
                return None
