"""A nats-server with JetStream on a free loopback port: the program that interop/run
builds. nats-py reads what a stream has."""

import asyncio
import os
import subprocess

import nats

from ports import free_port, until_it_answers

USER, PASSWORD = "carillon", "s3cret-of-nats"


class Nats:
    """A server with a stream ml that takes the subjects ml.>, and outlives a stop."""

    def __init__(self, directory):
        self._directory = directory
        self._log = open(directory / "nats.log", "ab")
        self._port = free_port()
        self.url = f"nats://127.0.0.1:{self._port}"
        self.start()
        self._do(lambda js: js.add_stream(name="ml", subjects=["ml.>"]))

    def start(self) -> None:
        self._process = subprocess.Popen(
            [os.environ["CARILLON_NATS_SERVER"], "-a", "127.0.0.1", "-p", str(self._port), "-js", "-sd", str(self._directory / "streams"), "--user", USER, "--pass", PASSWORD],
            stdout=self._log, stderr=self._log)
        until_it_answers(self._process, self._port, "nats-server")

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._log.close()

    def _do(self, what):
        async def run():
            connection = await nats.connect(self.url, user=USER, password=PASSWORD)
            try:
                return await what(connection.jetstream())
            finally:
                await connection.close()

        return asyncio.run(run())

    def messages(self, subject: str, count: int, timeout: float = 30) -> list:
        """The first count messages of a subject."""

        async def read(js):
            subscription, got = await js.subscribe(subject, ordered_consumer=True), []
            while len(got) < count:
                got.append(await subscription.next_msg(timeout))
            return got

        return self._do(read)
