"""Reads messages by AMQP 1.0, with rhea (receive.mjs)."""

import base64
import json
import os
import subprocess
import threading


class Reader:
    """Receives from an address, from now on."""

    def __init__(self, port: int, user: str, password: str, address: str, count: int):
        modules = os.environ["CARILLON_NODE_MODULES"]
        self._process = subprocess.Popen(
            ["node", os.path.join(os.path.dirname(modules), "receive.mjs"), str(port), user, password, address, str(count)], stdout=subprocess.PIPE, text=True)
        self._got = []
        assert self._process.stdout.readline() == "ready\n"
        self._reading = threading.Thread(target=lambda: self._got.extend(map(json.loads, self._process.stdout)), daemon=True)
        self._reading.start()

    def messages(self, timeout: float = 60) -> list:
        """All messages, once they are there."""
        self._reading.join(timeout)
        if self._process.poll() is None:
            self._process.kill()
            self._reading.join()
        assert self._process.wait(10) == 0, f"after {timeout} s only {len(self._got)} messages"
        for m in self._got:
            m["body"] = base64.b64decode(m["body"])
        return self._got
