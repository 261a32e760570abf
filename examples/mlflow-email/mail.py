"""A handler that sends an e-mail for each failed run. It needs nothing but Python.

Settings are environment variables: SMTP_HOST, SMTP_PORT (587), SMTP_STARTTLS (yes), SMTP_USER and SMTP_PASSWORD (none),
MAIL_FROM, MAIL_TO, MLFLOW_URL for links, HANDLER_KEY that callers must know, HANDLER_PORT (8025).
"""

import hmac
import http.server
import json
import os
import smtplib
import ssl
import sys
import urllib.parse
from email.message import EmailMessage

RUN_STATUS_CHANGED = "Microsoft.MachineLearningServices.RunStatusChanged"
setting = os.environ.get
sent = set()  # ids of events: each may be delivered more than once


def send(event):
    """Sends the e-mail of an event. Its Message-ID is made of the event's id, so that what is sent twice can be told."""
    run = event["data"]
    name = " ".join(run["runProperties"].get("mlflow.runName", run["runId"]).split())
    mail = EmailMessage()
    mail["From"], mail["To"] = setting("MAIL_FROM"), setting("MAIL_TO")
    mail["Subject"] = f"{run['runStatus']}: run {name} of {run['experimentName']}"
    mail["Message-ID"] = f"<{event['id']}@carillon>"
    mail.set_content(
        f"The run {name} of the experiment {run['experimentName']} is {run['runStatus']}.\n\n"
        f"{setting('MLFLOW_URL')}/#/experiments/{run['experimentId']}/runs/{run['runId']}\n\n"
        f"user   {run['runProperties'].get('mlflow.user', 'unknown')}\n"
        f"seen   {event['eventTime']}\n"
        f"tags   {json.dumps(run['runTags'], ensure_ascii=False)}\n")
    with smtplib.SMTP(setting("SMTP_HOST"), int(setting("SMTP_PORT", "587")), timeout=20) as server:
        if setting("SMTP_STARTTLS", "yes") == "yes":
            server.starttls(context=ssl.create_default_context())
        if setting("SMTP_USER"):
            server.login(setting("SMTP_USER"), setting("SMTP_PASSWORD"))
        server.send_message(mail)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if not hmac.compare_digest(query.get("code", [""])[0].encode(), os.environ["HANDLER_KEY"].encode()):
            return self.answer(403)
        events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["aeg-event-type"] == "SubscriptionValidation":  # the handshake: somebody who may read this key subscribes
            return self.answer(200, {"validationResponse": events[0]["data"]["validationCode"]})
        for event in events:
            if event["eventType"] != RUN_STATUS_CHANGED or event["id"] in sent:
                continue
            try:
                send(event)
            except OSError as error:  # of SMTP, too
                self.log_message("not sent: %s", error)
                return self.answer(503)  # it is delivered again, for a day
            sent.add(event["id"])
        return self.answer(200)

    def answer(self, status, body=None):
        raw = json.dumps(body).encode() if body else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_request(self, *_):  # its line would show the key
        pass


if __name__ == "__main__":
    needed = ["HANDLER_KEY", "SMTP_HOST", "MAIL_FROM", "MAIL_TO", "MLFLOW_URL"] + ["SMTP_PASSWORD"] * bool(setting("SMTP_USER"))
    missing = [name for name in needed if not setting(name)]
    if missing:
        print(f"mail.py needs {', '.join(missing)} in its environment.", file=sys.stderr)
        sys.exit(2)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(setting("HANDLER_PORT", "8025"))), Handler).serve_forever()
