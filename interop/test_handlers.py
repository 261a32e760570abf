"""The handlers of examples/ in Python and TypeScript, against the server: handshakes, both
schemas, and each of the five rules."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
from datetime import datetime, timezone

import pytest
import requests
from standardwebhooks import Webhook

from server import WORKSPACE_ID

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(scope="module")
def typescript(tmp_path_factory):
    modules = pathlib.Path(os.environ["CARILLON_NODE_MODULES"])
    built = tmp_path_factory.mktemp("typescript")
    (built / "node_modules").symlink_to(modules)
    shutil.copy(EXAMPLES / "handler-typescript" / "handler.ts", built)
    shutil.copy(EXAMPLES / "handler-typescript" / "tsconfig.json", built)
    subprocess.run(["node", modules / "typescript" / "bin" / "tsc", "-p", built], check=True)
    return ["node", built / "handler.js"]


@pytest.fixture(params=["python", "typescript"])
def program(request):
    if request.param == "python":
        return [sys.executable, EXAMPLES / "handler-python" / "handler.py"]
    return request.getfixturevalue("typescript")


class Program:
    """A handler in a process of its own, and the lines that it prints."""

    def __init__(self, command):
        self._process = subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True, env={**os.environ, "TOPIC": WORKSPACE_ID, "SIGNING_KEY": KEY})
        self.url = self.line().split(" ")[-1]

    def line(self) -> str:
        found = []
        reader = threading.Thread(target=lambda: found.append(self._process.stdout.readline().strip()), daemon=True)
        reader.start()
        reader.join(30)
        assert found, "the handler printed nothing in 30 s"
        return found[0]

    def post(self, events, key=KEY) -> int:
        body, now = json.dumps(events), datetime.now(timezone.utc)
        headers = {"webhook-id": "m", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": Webhook(key).sign("m", now, body),
                   "aeg-event-type": "Notification", "Content-Type": "application/json; charset=utf-8"}
        return requests.post(self.url, data=body, headers=headers, timeout=30).status_code

    def close(self):
        self._process.kill()
        self._process.wait()


@pytest.mark.parametrize("schema", ["EventGridSchema", "CloudEventSchemaV1_0"])
def test_handler(server, program, unique, schema):
    handler, name, model, experiment = Program(program), unique("handler"), unique("m"), unique("e")
    try:
        made = server.command("event-subscription", "create", "--name", name, "--endpoint", handler.url, "--event-delivery-schema", schema, "--signing", "v1", "--signing-key", KEY)
        assert made["properties"]["provisioningState"] == "Succeeded"
        server.record("POST", f"models/{model}/versions")
        assert handler.line() == f"registered {model}:1"
        server.record("PUT", f"experiments/{experiment}/runs/r-{experiment}", status="Completed")
        assert handler.line() == f"completed r-{experiment} of {experiment}"
    finally:
        server.command("event-subscription", "delete", "--name", name)
        handler.close()


def event(number, kind="ModelRegistered", topic=WORKSPACE_ID, subject="models/x:1", etag=None, **data):
    return {"id": str(number), "topic": topic, "subject": subject, "eventType": "Microsoft.MachineLearningServices." + kind, "eventTime": "2026-03-01T10:00:00Z",
            "dataVersion": "2", "metadataVersion": "1", "unknown": [1],
            "data": {"modelName": "x", "modelVersion": str(number), "unknown": {}, "etag": etag or f"e{number}", "sequencer": f"{number:032x}", **data}}


def test_rules(program):
    handler = Program(program)
    try:
        assert handler.post([event(5)]) == 200 and handler.line() == "registered x:5"
        assert handler.post([event(6)], key="whsec_" + "A" * 32) == 401  # whoever signed it
        assert handler.post([event(7, topic="/subscriptions/other")]) == 400
        assert handler.post([event(8, kind="SomethingNew")]) == 200
        assert handler.post([event(5)]) == 200  # a duplicate
        assert handler.post([event(4)]) == 200  # an older state
        assert handler.post([event(3, etag="e5"), event(9)]) == 200  # of the same change as the fifth, and a later one
        assert [handler.line(), handler.line()] == ["registered x:3", "registered x:9"]
    finally:
        handler.close()
