"""ActiveMQ Artemis, an AMQP 1.0 broker: the archive that interop/run unpacks, on a
free loopback port, started and stopped by the tests. Messages are read with rhea."""

import base64
import json
import os
import socket
import subprocess
import threading
import time

from azurite import free_port

USER, PASSWORD = "carillon", "s3cret-of-artemis"


class Artemis:
    """A broker whose queues outlive a stop."""

    def __init__(self, directory, *queues: str):
        self._directory = directory / "broker"
        self._log = open(directory / "artemis.log", "ab")
        self.port = free_port()
        subprocess.run(
            [os.path.join(os.environ["CARILLON_ARTEMIS"], "bin", "artemis"), "create", str(self._directory), "--user", USER, "--password", PASSWORD, "--require-login",
             "--no-web", "--no-autotune", "--no-amqp-acceptor", "--no-mqtt-acceptor", "--no-stomp-acceptor", "--no-hornetq-acceptor", "--nio",
             "--max-hops", "0", "--host", "127.0.0.1", "--default-port", str(self.port), "--queues", ",".join(queues), "--silent"],
            check=True, stdout=self._log, stderr=self._log)
        settings = self._directory / "etc" / "broker.xml"
        settings.write_text(settings.read_text().replace("<max-disk-usage>90</max-disk-usage>", "<max-disk-usage>100</max-disk-usage>"))
        self._process = None
        self.start()

    @property
    def url(self) -> str:
        return f"amqp://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen([str(self._directory / "bin" / "artemis"), "run"], stdout=self._log, stderr=self._log, start_new_session=True)
        for _ in range(600):
            assert self._process.poll() is None, "Artemis ended at its start"
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError("Artemis does not answer")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._log.close()

    def reader(self, address: str, count: int) -> "Reader":
        return Reader(self.port, address, count)


class Reader:
    """Receives from an address, from now on."""

    def __init__(self, port: int, address: str, count: int):
        modules = os.environ["CARILLON_NODE_MODULES"]
        self._process = subprocess.Popen(
            ["node", os.path.join(os.path.dirname(modules), "receive.mjs"), str(port), USER, PASSWORD, address, str(count)], stdout=subprocess.PIPE, text=True)
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
