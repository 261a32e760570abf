"""RabbitMQ 3 with its plug-in for AMQP 1.0: the server and the Erlang that interop/run
unpacks, on free loopback ports. Messages are read with rhea."""

import glob
import json
import os
import subprocess

from amqp_reader import Reader
from debian import ROOT, environment
from ports import free_port, until_it_answers

USER, PASSWORD = "carillon", "s3cret-of-rabbit"


class RabbitMQ:
    """A broker whose queues outlive kill -9."""

    user, password = USER, PASSWORD

    def __init__(self, directory, *queues: str):
        self._log = open(directory / "rabbitmq.log", "ab")
        self.port, names, distribution = free_port(), free_port(), free_port()
        [server] = glob.glob(f"{ROOT}/usr/lib/rabbitmq/lib/rabbitmq_server-*")
        [runtime] = glob.glob(f"{ROOT}/usr/lib/erlang/erts-*/bin")
        self._program = f"{server}/sbin/rabbitmq-server"
        definitions, settings, plugins = (directory / name for name in ("definitions.json", "rabbitmq.conf", "plugins"))
        definitions.write_text(json.dumps({
            "vhosts": [{"name": "/"}],
            "users": [{"name": USER, "password": PASSWORD, "tags": ""}],
            "permissions": [{"user": USER, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
            "queues": [{"name": name, "vhost": "/", "durable": True, "auto_delete": False, "arguments": {}} for name in queues]}))
        settings.write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\nload_definitions = {definitions}\nlog.console = true\nlog.file = false\n")
        plugins.write_text("[rabbitmq_amqp1_0].\n")
        self._environment = environment(
            HOME=str(directory), PATH=f"{ROOT}/usr/lib/erlang/bin:{os.environ['PATH']}", RUNNING_UNDER_SYSTEMD="true",  # the server is the process itself
            ERL_EPMD_PORT=str(names), ERL_EPMD_ADDRESS="127.0.0.1", RABBITMQ_DIST_PORT=str(distribution), RABBITMQ_NODENAME="carillon@localhost",
            RABBITMQ_CONF_ENV_FILE="/dev/null", RABBITMQ_CONFIG_FILE=str(settings), RABBITMQ_ENABLED_PLUGINS_FILE=str(plugins),
            RABBITMQ_MNESIA_BASE=str(directory / "mnesia"), RABBITMQ_LOG_BASE=str(directory / "log"), RABBITMQ_PID_FILE=str(directory / "pid"))
        self._names = subprocess.Popen([f"{runtime}/epmd", "-port", str(names)], stdout=self._log, stderr=self._log, env=self._environment)
        self._process = None
        self.start()

    @property
    def url(self) -> str:
        return f"amqp://127.0.0.1:{self.port}"

    def queue(self, name: str) -> str:
        """The address of a queue that is there."""
        return f"/amq/queue/{name}"

    def topic(self, name: str) -> str:
        """The address of a topic, as its subscribers name it."""
        return f"/topic/{name}"

    def start(self) -> None:
        self._process = subprocess.Popen([self._program], stdout=self._log, stderr=self._log, env=self._environment, start_new_session=True)
        until_it_answers(self._process, self.port, "RabbitMQ")

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        for process in (self._process, self._names):
            if process.poll() is None:
                process.kill()
                process.wait(10)
        self._log.close()

    def reader(self, address: str, count: int) -> Reader:
        return Reader(self.port, USER, PASSWORD, address, count)
