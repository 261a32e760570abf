"""Real producers of OpenLineage events, unmodified: the Python client in the ways that it
sends, and dbt with its wrapper. Source: spec/workspace.md section 6.1."""

import collections
import json
import os
import subprocess
import sys
import threading
import uuid
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from azure.mgmt.eventgrid.models import EventSubscription, WebHookEventSubscriptionDestination
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import error_message_run, job_type_job, parent_run, tags_run
from openlineage.client.transport.http import HttpConfig, HttpTransport

from server import WORKSPACE_ID, OwnServer

PREFIX = "Microsoft.MachineLearningServices."
PRODUCER = "https://github.com/carillon-events/carillon/interop"


class Bridge:
    """A server of its own, and what its handler got."""

    def __init__(self, server, handler):
        self.server, self.handler = server, handler
        shown = server.command("openlineage", "show")["properties"]
        self.keys = server.command("openlineage", "key", "list")
        self.env = {"OPENLINEAGE_URL": shown["url"], "OPENLINEAGE_ENDPOINT": shown["endpoint"], "OPENLINEAGE_API_KEY": self.keys["key1"], "REQUESTS_CA_BUNDLE": server.ca}
        self.address = shown["address"]

    def client(self, **change):
        config = {"url": self.env["OPENLINEAGE_URL"], "endpoint": self.env["OPENLINEAGE_ENDPOINT"], "auth": {"type": "api_key", "apiKey": self.keys["key1"]}, **change}
        return OpenLineageClient(transport=HttpTransport(HttpConfig.from_dict(config)))

    def wait(self, want: collections.Counter):
        """Waits for events, each as (type, run id, status or None), and holds that there is
        nothing else and nothing twice."""
        events = self.handler.wait(lambda events: not want - count(events), timeout=30)
        assert count(events) == want and len({e["id"] for e in events}) == len(events)
        return events


def count(events):
    return collections.Counter((e["eventType"].removeprefix(PREFIX), e["data"]["runId"], e["data"].get("runStatus")) for e in events)


def statuses(run_id, *list):
    want = collections.Counter()
    for status in list:
        want["RunStatusChanged", run_id, status] += 1
        if status == "Completed":
            want["RunCompleted", run_id, None] += 1
    return want


@pytest.fixture
def bridge(tmp_path, make_handler, monkeypatch):
    server, handler = OwnServer(tmp_path), make_handler()
    try:
        server.command("workspace", "update", "default", "--status-events", "Running", "Completed", "Failed", "Canceled")
        with server.management() as management:
            management.event_subscriptions.begin_create_or_update(WORKSPACE_ID, "all", EventSubscription(
                destination=WebHookEventSubscriptionDestination(endpoint_url=handler.url))).result()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", server.ca)
        yield Bridge(server, handler)
    finally:
        server.close()


def event(state, run_id, at=None, run_facets=None, job_facets=None, **more):
    return RunEvent(eventType=state, eventTime=(at or datetime.now(timezone.utc)).isoformat(), producer=PRODUCER,
                    run=Run(runId=run_id, facets=run_facets or {}), job=Job(namespace="team", name="churn.train", facets=job_facets or {}), **more)


def test_client(bridge):
    client, run_id, parent = bridge.client(), str(uuid.uuid4()), str(uuid.uuid4())
    client.emit(event(RunState.START, run_id, job_facets={"jobType": job_type_job.JobTypeJobFacet(processingType="BATCH", integration="AIRFLOW", jobType="TASK")}, run_facets={
        "parent": parent_run.ParentRunFacet(run=parent_run.Run(runId=parent), job=parent_run.Job(namespace="team", name="dag")),
        "tags": tags_run.TagsRunFacet(tags=[tags_run.TagsRunFacetFields(key="tier", value="gold", source="USER")])}))
    client.emit(event(RunState.RUNNING, run_id))
    client.emit(event(RunState.FAIL, run_id, run_facets={"errorMessage": error_message_run.ErrorMessageRunFacet(message="no space", programmingLanguage="python")},
                      outputs=[OutputDataset(namespace="s3://out", name="c")]))
    data = [e for e in bridge.wait(statuses(run_id, "Running", "Failed")) if e["data"].get("runStatus") == "Failed"][0]["data"]
    assert data["runType"] == "openlineage.airflow.task" and data["runTags"]["tier"] == "gold" and data["experimentName"] == "team/churn.train"
    got = data["runProperties"]
    assert got["openlineage.errorMessage"] == "no space" and got["openlineage.parentRunId"] == parent and got["openlineage.outputs"] == "s3://out/c"
    shown = bridge.server.command("run", "show", "--experiment", data["experimentId"], "--run-id", run_id)
    assert shown["properties"]["status"] == "Failed"


def test_order_and_ways(bridge):
    """Late, twice and out of order; compressed, by the variables, with the other key, with
    a token that the client fetches, and after a key was replaced."""
    now, want = datetime.now(timezone.utc), collections.Counter()
    completed = str(uuid.uuid4())
    zipped = bridge.client(compression="gzip")
    for state, seconds in [(RunState.COMPLETE, 2), (RunState.START, 1), (RunState.COMPLETE, 2), (RunState.OTHER, 3), (RunState.START, 1)]:
        zipped.emit(event(state, completed, at=now + timedelta(seconds=seconds)))
    want += statuses(completed, "Completed")

    again = str(uuid.uuid4())
    other = bridge.client(auth={"type": "api_key", "apiKey": bridge.keys["key2"]})
    for state, seconds in [(RunState.START, 1), (RunState.FAIL, 2), (RunState.START, 3), (RunState.COMPLETE, 4)]:
        other.emit(event(state, again, at=now + timedelta(seconds=seconds)))
    want += statuses(again, "Running", "Failed", "Running", "Completed")

    made = bridge.server.command("principal", "create", "airflow")
    fetched = bridge.client(auth={"type": "oauth2", "clientId": made["appId"], "clientSecret": made["password"], "clientAuthMethod": "client_secret_post",
                                  "scope": "https://management.azure.com/.default", "tokenEndpoint": f"{bridge.server.url}/{made['tenant']}/oauth2/v2.0/token"})
    aborted = str(uuid.uuid4())
    with pytest.raises(requests.HTTPError) as refused:
        fetched.emit(event(RunState.ABORT, aborted))
    assert refused.value.response.status_code == 403
    bridge.server.command("role", "assignment", "create", "--assignee", made["objectId"], "--role", "AzureML Data Scientist", "--scope", WORKSPACE_ID)
    fetched.emit(event(RunState.ABORT, aborted))
    want += statuses(aborted, "Canceled")

    bridge.server.command("openlineage", "key", "regenerate", "--key-name", "key1")
    with pytest.raises(requests.HTTPError) as refused:
        bridge.client().emit(event(RunState.START, str(uuid.uuid4())))
    assert refused.value.response.status_code == 401
    batch = [json.loads(json.dumps({"eventType": state, "eventTime": now.isoformat(), "producer": PRODUCER, "run": {"runId": aborted}, "job": {"namespace": "team", "name": "churn.train"}}))
             for state in ("OTHER", "DONE")]
    answer = requests.post(bridge.address + "/batch", json=batch, headers={"Authorization": "Bearer " + bridge.keys["key2"]}, timeout=30)
    assert answer.status_code == 200 and answer.json()["summary"]["successful"] == 1 and answer.json()["failed_events"][0]["index"] == 1
    bridge.wait(want)


class Tap(BaseHTTPRequestHandler):
    """What dbt sends is passed on as it is, and remembered to be compared with."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = requests.post(self.server.to + self.path, data=body, headers={k: v for k, v in self.headers.items() if k.lower() != "host"}, timeout=30)
        self.server.seen.append(json.loads(body))
        self.send_response(answer.status_code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("mode", [[], ["--consume-structured-logs"]], ids=["at the end", "while it runs"])
def test_dbt(bridge, tmp_path, mode):
    """A project with a model that is built, one that fails and one that is skipped."""
    project = tmp_path / "orders"
    (project / "models").mkdir(parents=True)
    (project / "dbt_project.yml").write_text("name: orders\nversion: 1.0.0\nprofile: orders\nmodel-paths: [models]\n")
    (project / "profiles.yml").write_text(f"orders:\n  target: dev\n  outputs:\n    dev: {{type: duckdb, path: '{tmp_path}/orders.duckdb', threads: 1}}\n")
    (project / "models" / "good.sql").write_text("{{ config(materialized='table') }} select 1 as id")
    (project / "models" / "bad.sql").write_text("{{ config(materialized='table') }} select no_such_column from {{ ref('good') }}")
    (project / "models" / "after.sql").write_text("select * from {{ ref('bad') }}")
    tap = ThreadingHTTPServer(("127.0.0.1", 0), Tap)
    tap.to, tap.seen = bridge.env["OPENLINEAGE_URL"], []
    threading.Thread(target=tap.serve_forever, daemon=True).start()
    programs = os.path.dirname(sys.executable)
    env = {**os.environ, **bridge.env, "PATH": programs + os.pathsep + os.environ["PATH"], "OPENLINEAGE_URL": f"http://127.0.0.1:{tap.server_port}", "OPENLINEAGE_NAMESPACE": "team", "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
    ran = subprocess.run([os.path.join(programs, "dbt-ol"), *mode, "run", "--project-dir", project, "--profiles-dir", project],
                         env=env, capture_output=True, text=True, timeout=120, cwd=project)
    tap.shutdown()
    assert ran.returncode != 0 and tap.seen, ran.stdout + ran.stderr
    names = {"START": "Running", "COMPLETE": "Completed", "FAIL": "Failed", "ABORT": "Canceled"}
    want = collections.Counter()
    for e in tap.seen:
        want |= statuses(e["run"]["runId"], *[names[e["eventType"]]] if e.get("eventType") in names else [])
    events = bridge.wait(want)
    failed = {e["data"]["experimentName"]: e["data"] for e in events if e["data"].get("runStatus") == "Failed"}
    models = [data for name, data in failed.items() if name.endswith("orders.bad")]
    assert len(models) == 1, failed.keys()
    told = [e["run"]["facets"].get("errorMessage", {}).get("message") for e in tap.seen if e["run"]["runId"] == models[0]["runId"] and e["eventType"] == "FAIL"]
    assert [models[0]["runProperties"].get("openlineage.errorMessage")] == told  # it says none at the end
    assert models[0]["runType"].startswith("openlineage.dbt.")
    assert any(name.endswith("orders.good") for name in {e["data"]["experimentName"] for e in events if e["data"].get("runStatus") == "Completed"})
