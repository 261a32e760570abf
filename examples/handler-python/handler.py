"""A handler that follows the five rules of docs/events.md, with the official SDK's
deserializers and the library of Standard Webhooks.

    TOPIC=… SIGNING_KEY=whsec_… python handler.py PORT
"""

import json
import os
import sys
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, HTTPServer

from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent
from standardwebhooks import Webhook, WebhookVerificationError

TOPIC = os.environ["TOPIC"].lower()  # the workspace's resource id
SIGNATURE = Webhook(os.environ["SIGNING_KEY"])
ORIGINS = {"eventgrid.azure.net"}  # who may send CloudEvents
ML = "Microsoft.MachineLearningServices."


def model_registered(data: dict) -> None:
    print(f"registered {data['modelName']}:{data['modelVersion']}", flush=True)


def run_completed(data: dict) -> None:
    print(f"completed {data['runId']} of {data['experimentName']}", flush=True)


# What takes long belongs behind the answer: a sender waits half a minute.
HANDLERS = {ML + "ModelRegistered": model_registered, ML + "RunCompleted": run_completed}


class Memory(OrderedDict):
    """Remembers the last 100,000; a database outlives the process and is shared."""

    def note(self, key, value=True) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > 100_000:
            self.popitem(last=False)


handled, newest = Memory(), Memory()


def take(source: str, kind: str, event) -> int:
    """Handles one event and returns the status that answers for it."""
    if source.lower() != TOPIC:  # 1. check the topic: 400 is not tried again
        return 400
    handle = HANDLERS.get(kind)  # 1. and the type: what is not known is taken and left
    if handle is None or (source, event.id) in handled:  # 2. drop duplicates
        return 200
    state = event.data.get("sequencer", ""), event.data.get("etag")  # 3. drop what is older than what was handled
    before = newest.get((source, event.subject), ("", None))
    if state[0] > before[0] or state[1] == before[1]:  # events of one change have one etag
        handle(event.data)  # 5. members that are not known do no harm; an exception is a 500, and the event comes again
        newest.note((source, event.subject), max(state, before))
    handled.note((source, event.id))  # once it is handled, not before
    return 200


class Endpoint(BaseHTTPRequestHandler):
    def do_OPTIONS(self) -> None:  # the handshake of CloudEvents
        origin = self.headers.get("WebHook-Request-Origin")
        self.answer(200, headers={"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"} if origin in ORIGINS else {})

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        if size > 2 << 20:
            return self.answer(413)
        body = self.rfile.read(size)
        try:
            events = SIGNATURE.verify(body, {k.lower(): v for k, v in self.headers.items()})
        except WebhookVerificationError:
            return self.answer(401)
        if isinstance(events, dict):
            events = [events]
        if self.headers.get("aeg-event-type") == "SubscriptionValidation":  # the handshake of the Event Grid schema
            event = EventGridEvent.from_dict(events[0])
            known = event.topic.lower() == TOPIC
            return self.answer(200 if known else 400, {"validationResponse": event.data["validationCode"]} if known else None)
        if self.headers.get("aeg-event-type") != "Notification":  # the event subscription is gone
            return self.answer(200)
        cloud = self.headers.get_content_type().startswith("application/cloudevents")
        try:
            taken = [CloudEvent.from_dict(e) if cloud else EventGridEvent.from_dict(e) for e in events]
            statuses = [take(e.source, e.type, e) if cloud else take(e.topic, e.event_type, e) for e in taken]
        except Exception as failed:  # whatever it was, the event comes again
            print(f"failed: {failed!r}", file=sys.stderr, flush=True)
            return self.answer(500)
        self.answer(max(statuses))

    def answer(self, status: int, body=None, headers=()) -> None:
        raw = json.dumps(body).encode() if body else b""
        self.send_response(status)
        for name, value in dict(headers, **{"Content-Type": "application/json", "Content-Length": str(len(raw))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_) -> None:
        pass


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Endpoint)  # one request at a time: no event is handled twice at once
    print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
