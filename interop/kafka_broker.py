"""A broker of Apache Kafka (KRaft mode) on free loopback ports: the jars that interop/run
fetches. Its users are in the clear of this machine alone."""

import os
import subprocess
import time

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.admin import NewTopic

from ports import free_port, until_it_answers

USER, PASSWORD = "carillon", "s3cret-of-kafka"


class Kafka:
    """A broker with topics of two partitions, which outlive a stop. USER signs in by PLAIN
    or SCRAM-SHA-512."""

    def __init__(self, directory, *topics):
        self._log = open(directory / "kafka.log", "ab")
        self._settings = directory / "server.properties"
        self._process = None
        self.address, controller, clear = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self._clear = clear
        module = "org.apache.kafka.common.security"
        self._settings.write_text("\n".join([
            "process.roles=broker,controller", "node.id=1", f"controller.quorum.voters=1@{controller}", "controller.listener.names=CONTROLLER",
            f"listeners=SASL://{self.address},CONTROLLER://{controller},CLEAR://{clear}",
            "listener.security.protocol.map=SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT,CLEAR:PLAINTEXT", "inter.broker.listener.name=CLEAR",
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512",
            f'listener.name.sasl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
            f"listener.name.sasl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;",
            f"log.dirs={directory / 'logs'}", "auto.create.topics.enable=false", "offsets.topic.replication.factor=1", "message.max.bytes=100000"]))
        self._java("kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", str(self._settings),
                   "--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]").wait(60)
        self.start()
        admin = KafkaAdminClient(bootstrap_servers=clear)
        admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1) for name in topics])
        admin.close()

    def _java(self, *arguments):
        return subprocess.Popen(["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", os.path.join(os.environ["CARILLON_KAFKA"], "*"), *arguments],
                                stdout=self._log, stderr=self._log)

    def start(self) -> None:
        self._process = self._java("kafka.Kafka", str(self._settings))
        until_it_answers(self._process, int(self._clear.partition(":")[2]), "Kafka")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._log.close()

    def records(self, topic: str, enough, timeout: float = 30) -> list:
        """The records of a topic once enough(records) holds; an int means that many."""
        holds = (lambda records: len(records) >= enough) if isinstance(enough, int) else enough
        consumer = KafkaConsumer(topic, bootstrap_servers=self._clear, auto_offset_reset="earliest", consumer_timeout_ms=500)
        records, deadline = [], time.monotonic() + timeout
        try:
            while not holds(records):
                assert time.monotonic() < deadline, f"after {timeout} s topic {topic} has {len(records)} records"
                records += list(consumer)
        finally:
            consumer.close()
        return records
