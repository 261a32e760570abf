"""A real MLflow server of a test's own, started as its users start it, and a Carillon server
that follows it."""

import collections
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import requests
from azure.mgmt.eventgrid.models import EventSubscription, WebHookEventSubscriptionDestination

from server import WORKSPACE_ID, OwnServer


class Tracking:
    """An MLflow server process. Arguments go to `mlflow server`, and an environment besides."""

    def __init__(self, directory, *arguments, prefix="", environment=None, auth=None):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.auth = auth
        self._prefix = prefix
        self._log = directory / "mlflow.log"
        self._sessions = threading.local()
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                 "--backend-store-uri", f"sqlite:///{directory}/mlflow.db", "--artifacts-destination", str(directory / "artifacts"), *arguments],
                stdout=log, stderr=log, start_new_session=True, cwd=directory, env={**os.environ, **(environment or {})})
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                if requests.get(self.url + self._prefix + "/health", timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.25)
        raise AssertionError(self._log.read_text())

    def rest(self, path: str, body: dict | None, method="POST", headers=None) -> dict:
        """Calls the REST API, which costs a tenth of what the client does. For several threads."""
        if not hasattr(self._sessions, "own"):
            self._sessions.own = requests.Session()
            self._sessions.own.trust_env = False
        answer = self._sessions.own.request(method, f"{self.url}{self._prefix}/{'ajax-' if self._prefix else ''}api/2.0/mlflow/{path}", json=body, headers=headers, auth=self.auth, timeout=60)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def create_run(self, experiment: str, **more) -> str:
        return self.rest("runs/create", {"experiment_id": experiment, "start_time": int(time.time() * 1000), **more})["run"]["info"]["run_id"]

    def update_run(self, run: str, status: str, **more) -> None:
        self.rest("runs/update", {"run_id": run, "status": status, **more})

    def close(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # otherwise it waits for connections that are kept
        except ProcessLookupError:
            pass
        self._process.wait(30)


PREFIX = "Microsoft.MachineLearningServices."


def word(event: dict) -> tuple:
    """An event as tests name it: (type, subject, status or None)."""
    return event["eventType"].removeprefix(PREFIX), event["subject"], event["data"].get("runStatus")


def ended(experiment: str, run: str, status: str) -> list:
    """The events of a run that ended."""
    subject = f"experiments/{experiment}/runs/{run}"
    events = [("RunStatusChanged", subject, status)]
    return events + [("RunCompleted", subject, None)] if status == "Completed" else events


class Bridge:
    """A Carillon server that follows MLflow, and what its handler got."""

    def __init__(self, directory, handler, url: str, *flags: str, statuses=("Completed", "Failed", "Canceled")):
        self.server, self.handler = OwnServer(directory), handler
        try:
            self.server.command("workspace", "update", "default", "--status-events", *statuses)
            with self.server.management() as management:
                management.event_subscriptions.begin_create_or_update(WORKSPACE_ID, "all", EventSubscription(
                    destination=WebHookEventSubscriptionDestination(endpoint_url=handler.url))).result()
            self.attach(url, *flags)
        except BaseException:
            self.close()
            raise

    def attach(self, url: str, *flags: str) -> None:
        """Attaches a server and waits until it was read."""
        self.server.command("mlflow", "attach", url, *flags)
        self.read()

    def read(self) -> None:
        """Waits for a whole round."""
        for _ in range(300):
            if self.status()["state"] == "Following":
                return
            time.sleep(0.1)
        raise AssertionError(self.status())

    def wait(self, *wanted, timeout=60) -> dict:
        """Waits for events and holds that there are no others, and none twice. An event that
        was under way when the server was killed may be delivered again, with its id."""
        want = collections.Counter(wanted)
        try:
            self.handler.wait(lambda events: not want - self._count(events), timeout=timeout)
        except AssertionError:
            raise AssertionError(f"missing {want - self.events()}, besides {self.events() - want}") from None
        assert self.events() == want
        return {word(e): e for e in self.handler.events()}

    def settle(self) -> None:
        """Waits for some whole rounds, so that what was going to come has come."""
        for _ in range(3):
            last = self.status()["lastRound"]
            for _ in range(300):
                if self.status()["lastRound"] != last:
                    break
                time.sleep(0.1)

    def status(self) -> dict:
        return self.server.mlflow_status()

    def events(self) -> collections.Counter:
        """The events so far, each id once."""
        return self._count(self.handler.events())

    @staticmethod
    def _count(events: list) -> collections.Counter:
        return collections.Counter({e["id"]: word(e) for e in events}.values())

    def close(self) -> None:
        self.server.close()
