"""Mosquitto, an MQTT broker: the program of the Debian package, on a free loopback port,
with a file of passwords and a list of who may publish where. paho-mqtt reads what arrives."""

import os
import subprocess
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from debian import command, environment
from ports import free_port, until_it_answers

USER, PASSWORD, READER = "carillon", "s3cret-of-mosquitto", "reader"


class Mosquitto:
    """A broker whose sessions outlive a stop. USER may publish below ml/, READER reads all."""

    def __init__(self, directory):
        self._directory, self.port, self._process = directory, free_port(), None
        self._log = open(directory / "mosquitto.log", "ab")
        passwords, rules, self._settings = (directory / name for name in ("passwords", "rules", "mosquitto.conf"))
        passwords.touch(mode=0o600)
        for user in (USER, READER):
            subprocess.run([command("mosquitto_passwd"), "-b", str(passwords), user, PASSWORD], check=True, env=environment())
        rules.write_text(f"user {USER}\ntopic write ml/#\nuser {READER}\ntopic read #\n")
        rules.chmod(0o600)
        self._settings.write_text("\n".join([
            f"listener {self.port} 127.0.0.1", "user root", "allow_anonymous false", f"password_file {passwords}", f"acl_file {rules}", "max_queued_messages 0",
            "max_packet_size 100000", "persistence true", f"persistence_location {directory}/", ""]))
        self.start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen([command("mosquitto"), "-c", str(self._settings)], stdout=self._log, stderr=self._log, env=environment())
        until_it_answers(self._process, self.port, "Mosquitto")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._log.close()

    def reader(self, topic: str) -> "Reader":
        return Reader(self.port, topic)


class Reader:
    """Gets what is published to a topic from now on, whether or not it is connected: its
    session is kept."""

    def __init__(self, port: int, topic: str):
        self._got, self._changed, subscribed = [], threading.Condition(), threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"reader-{port}-{topic.replace('/', '-')}", protocol=mqtt.MQTTv5)
        self._client.username_pw_set(READER, PASSWORD)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._take
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=2)
        self._client.on_subscribe = lambda *_: subscribed.set()
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 600
        self._client.connect("127.0.0.1", port, clean_start=False, properties=kept)
        self._client.loop_start()
        assert subscribed.wait(30), "the subscription is not there"

    def _take(self, _client, _data, message) -> None:
        with self._changed:
            self._got.append(message)
            self._changed.notify_all()

    def messages(self, enough, timeout: float = 60) -> list:
        """All messages, once enough(messages) holds; an int means that many."""
        holds = (lambda messages: len(messages) >= enough) if isinstance(enough, int) else enough
        with self._changed:
            assert self._changed.wait_for(lambda: holds(self._got), timeout), f"after {timeout} s only {len(self._got)} messages"
        self._client.disconnect()
        self._client.loop_stop()
        return self._got
