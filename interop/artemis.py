"""ActiveMQ Artemis, an AMQP 1.0 broker: the archive that interop/run unpacks, on a
free loopback port, started and stopped by the tests. Messages are read with rhea."""

import os
import subprocess

from amqp_reader import Reader
from ports import free_port, until_it_answers

USER, PASSWORD = "carillon", "s3cret-of-artemis"


class Artemis:
    """A broker whose queues outlive kill -9."""

    user, password = USER, PASSWORD

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

    def queue(self, name: str) -> str:
        """The address of a queue."""
        return name

    def topic(self, name: str) -> str:
        """The address of a topic, as its subscribers name it."""
        return f"topic://{name}"

    def start(self) -> None:
        self._process = subprocess.Popen([str(self._directory / "bin" / "artemis"), "run"], stdout=self._log, stderr=self._log, start_new_session=True)
        until_it_answers(self._process, self.port, "Artemis")

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._log.close()

    def reader(self, address: str, count: int) -> Reader:
        return Reader(self.port, USER, PASSWORD, address, count)
