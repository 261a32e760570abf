"""A Carillon server as its clients see it: an address, a token, a certificate
authority, and the command. Servers of a suite's own are started here, too."""

import json
import os
import subprocess
import time

import requests
from azure.core.credentials import AccessToken
from azure.mgmt.eventgrid import EventGridManagementClient

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
GROUP = "local"
GROUP_ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
WORKSPACE = "default"
WORKSPACE_ID = f"{GROUP_ID}/providers/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}"
TOPIC_TYPE = "Microsoft.MachineLearningServices.Workspaces"
AUDIENCE = "https://management.azure.com/.default"
OURS = "2026-11-01"  # api-version of a workspace's sub-resources


def topic_id(name: str) -> str:
    return f"{GROUP_ID}/providers/Microsoft.EventGrid/topics/{name}"


class StaticToken:
    """A credential that is one token, as `carillon token` prints it."""

    def __init__(self, token: str):
        self._token = token

    def get_token(self, *scopes, **_):
        return AccessToken(self._token, int(time.time()) + 3600)


class Server:
    """A running server. Its address and token come from `carillon env`."""

    def __init__(self, url: str, token: str, ca: str):
        self.url, self.token, self.ca = url, token, ca

    def management(self, credential=None, **options) -> EventGridManagementClient:
        return EventGridManagementClient(credential or StaticToken(self.token), SUBSCRIPTION, **{
            "base_url": self.url, "credential_scopes": [AUDIENCE], "connection_verify": self.ca, "polling_interval": 1, **options})

    def record(self, method: str, path: str, **properties) -> dict:
        """Records a lifecycle fact at a path of the default workspace."""
        answer = requests.request(
            method, f"{self.url}{WORKSPACE_ID}/{path}", params={"api-version": OURS}, verify=self.ca, timeout=30,
            headers={"Authorization": f"Bearer {self.token}"}, json={"properties": properties})
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def status(self, scope: str) -> list:
        """How the deliveries of the event subscriptions at a scope stand."""
        answer = requests.get(f"{self.url}{scope}/providers/Carillon.Delivery/deliveryStatus", params={"api-version": OURS}, verify=self.ca, timeout=30,
                              headers={"Authorization": f"Bearer {self.token}"})
        assert answer.ok, f"{answer.status_code} {answer.text}"
        return answer.json()["value"]

    def mlflow_status(self) -> dict:
        """How the default workspace follows its MLflow server: without a process for each of many looks."""
        answer = requests.get(f"{self.url}{WORKSPACE_ID}/providers/Carillon.MLflow/servers/default", params={"api-version": OURS}, verify=self.ca, timeout=30,
                              headers={"Authorization": f"Bearer {self.token}"})
        assert answer.ok, f"{answer.status_code} {answer.text}"
        return answer.json()["properties"]["status"]

    def connect(self, resource: str, text: str) -> None:
        """Gives a resource a connection string, or another one."""
        words = resource.split("/")
        self.command("connection", "create", f"{words[words.index('providers') + 1]}-{words[-1]}", "--resource-id", resource, "--connection-string", "-", text=text)

    def command(self, *arguments: str, text: str = ""):
        """Runs a client command, with a text for its standard input, and returns its output as parsed JSON."""
        env = {**os.environ, "CARILLON_URL": self.url, "CARILLON_TOKEN": self.token, "CARILLON_CA": self.ca}
        ran = subprocess.run([os.environ["CARILLON_BINARY"], *arguments, "-o", "json"], env=env, input=text, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, f"carillon {' '.join(arguments)}: {ran.stderr}"
        return json.loads(ran.stdout) if ran.stdout.strip() else None


class OwnServer(Server):
    """A server process of a test's own, on a data directory that outlives it."""

    def __init__(self, directory, *flags):
        self._flags = flags
        self._data = str(directory / "data")
        self._log = open(directory / "log", "ab")
        self._listen = "127.0.0.1:0"
        self.start()

    def launch(self) -> None:
        """Starts the server, on the port of the last time, for whoever kills it before it need be ready."""
        self._process = subprocess.Popen(
            [os.environ["CARILLON_BINARY"], "serve", "--data", self._data, "--listen", self._listen, *self._flags],
            stdout=subprocess.PIPE, stderr=self._log, text=True)

    def start(self) -> None:
        """Starts the server, on the port of the last time, and waits until it is ready."""
        self.launch()
        line = self._process.stdout.readline()
        assert line.startswith("ready url="), f"the server said {line!r}, not that it is ready"
        url = line.split()[1].removeprefix("url=")
        self._listen = url.removeprefix("https://")
        token = subprocess.run([os.environ["CARILLON_BINARY"], "token", "--data", self._data], capture_output=True, text=True, check=True)
        super().__init__(url, token.stdout.strip(), os.path.join(self._data, "ca.pem"))

    def kill(self) -> None:
        """kill -9: the process has no chance to save anything."""
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self._process.terminate()
        return self._process.wait(30)

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()
        self._log.close()
