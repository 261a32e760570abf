"""A webhook on a port of its own. It answers both validation handshakes and
remembers what it is sent."""

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Request:
    """One request that reached the handler."""

    method: str
    path: str
    headers: dict  # names in lower case
    body: bytes

    def events(self) -> list:
        """The events of a delivery, as parsed JSON: a batch or a single one."""
        body = json.loads(self.body)
        return body if isinstance(body, list) else [body]


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # connections that come at once; 5 by default, and refused ones are tried again in 10 s
    daemon_threads = True


class Handler:
    """Consents to handshakes and takes every event, unless told otherwise:
    refuse answers every request with 403, silent answers handshakes with 200 and
    nothing else, fail answers every delivery with 500, hang leaves it without an
    answer."""

    def __init__(self, behaviour: str = "consent", port: int = 0, tls=None):
        self.behaviour = behaviour
        self._scheme = "https" if tls else "http"
        self._seen = []
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._server = Server(("127.0.0.1", port), self._endpoint())
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/hook"

    @property
    def url(self) -> str:
        """The URL of the endpoint; its query holds a secret, as webhooks have it."""
        return self.base_url + "?code=s3cret"

    def handshakes(self) -> list:
        with self._changed:
            return [r for r in self._seen if r.method == "OPTIONS" or r.headers.get("aeg-event-type") == "SubscriptionValidation"]

    def deliveries(self) -> list:
        with self._changed:
            return [r for r in self._seen if r.headers.get("aeg-event-type") == "Notification"]

    def events(self) -> list:
        """Every event delivered so far, as parsed JSON."""
        return [event for delivery in self.deliveries() for event in delivery.events()]

    def wait(self, enough, timeout: float = 60) -> list:
        """Returns the events delivered once enough(events) holds. An int means
        that many events."""
        holds = (lambda events: len(events) >= enough) if isinstance(enough, int) else enough
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self.events()), timeout):
                raise AssertionError(f"after {timeout} s only these events arrived: {self.events()}")
        return self.events()

    def wait_delivery(self, timeout: float = 60) -> None:
        """Returns once a delivery was begun, answered or not."""
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self.deliveries()), timeout), "no delivery was attempted"

    def close(self) -> None:
        """Frees the port, so that connections to it are refused."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _endpoint(handler):  # noqa: N805: the inner class has a self of its own
        class Endpoint(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, status, body=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def serve(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                with handler._changed:
                    handler._seen.append(request)
                    handler._changed.notify_all()
                kind = request.headers.get("aeg-event-type")
                if handler.behaviour == "refuse":
                    self.answer(403)
                elif self.command == "OPTIONS":
                    if handler.behaviour == "silent":
                        self.answer(200)
                    else:
                        self.answer(200, WebHook_Allowed_Origin=request.headers["webhook-request-origin"], Allow="POST, OPTIONS")
                elif kind == "SubscriptionValidation" and handler.behaviour != "silent":
                    code = request.events()[0]["data"]["validationCode"]
                    self.answer(200, json.dumps({"validationResponse": code}).encode(), Content_Type="application/json")
                elif kind == "Notification" and handler.behaviour == "hang":
                    handler._closed.wait()
                    self.close_connection = True
                elif kind == "Notification" and handler.behaviour == "fail":
                    self.answer(500)
                else:
                    self.answer(200)

            do_POST = do_OPTIONS = serve

        return Endpoint
