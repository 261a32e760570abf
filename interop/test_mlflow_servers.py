"""What depends on how a real MLflow server is set up: its webhooks, the options of what an
attached server raises, and a server behind a prefix that has workspaces and asks who is
calling. Source: spec/workspace.md sections 4 and 5."""

import base64
import os
import time

import pytest
import requests

from server import WORKSPACE_ID
from tracking import Bridge, Tracking, ended

TOKEN, PASSWORD = "t0ken-of-carillon", "a strong passw0rd"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """A server that calls addresses of this machine, over plain http."""
    tracking = Tracking(tmp_path_factory.mktemp("mlflow"), environment={
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true", "MLFLOW_WEBHOOK_CACHE_TTL": "1",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(), "MLFLOW_DISABLE_TELEMETRY": "true"})
    yield tracking
    tracking.close()


def test_webhooks(tmp_path, tracking, make_handler, unique):
    """With rounds an hour apart versions are seen at once; the fact is what the server says."""
    bridge, name = Bridge(tmp_path, make_handler(), tracking.url, "--poll-interval", "3600", "--deploy-on-alias", "champion"), unique("churn")
    try:
        origin = bridge.server.url.replace("https:", "http:")
        bridge.attach(tracking.url, "--poll-interval", "3600", "--deploy-on-alias", "champion", "--webhook", "--webhook-origin", origin)
        address = f"{origin}/mlflow/local~default/webhook"
        registered = tracking.rest("webhooks", None, method="GET")["webhooks"]
        assert [(w["url"], w["status"]) for w in registered] == [(address, "ACTIVE")]
        time.sleep(1.1)  # the server keeps its list for a second

        tracking.rest("registered-models/create", {"name": name})
        tracking.rest("model-versions/create", {"name": name, "source": "s3://models/1"})
        want = [("ModelRegistered", f"models/{name}:1", None)]
        bridge.wait(*want, timeout=20)
        tracking.rest("registered-models/alias", {"name": name, "alias": "champion", "version": "1"})
        want.append(("ModelDeployed", f"endpoints/{name}@champion", None))
        assert bridge.wait(*want, timeout=20)[want[1]]["data"]["modelIds"] == f"{name}:1"
        status = bridge.status()
        assert status["webhook"] == "Active" and status["lastWebhook"]

        tested = tracking.rest(f"webhooks/{registered[0]['webhook_id']}/test", {})["result"]
        assert tested["success"] and tested["response_status"] == 204, tested
        forged = requests.post(address, data=b"{}", timeout=10, headers={
            "X-MLflow-Delivery-Id": "1", "X-MLflow-Timestamp": str(int(time.time())), "X-MLflow-Signature": "v1," + base64.b64encode(b"x" * 32).decode()})
        assert forged.status_code == 401

        bridge.server.command("mlflow", "detach", "--yes")
        assert not tracking.rest("webhooks", None, method="GET").get("webhooks")
    finally:
        bridge.close()


def test_options(tmp_path, tracking, make_handler, unique):
    bridge = Bridge(tmp_path, make_handler(), tracking.url, "--poll-interval", "1", "--synthesize-running", "--experiment-id-format", "guid", "--metrics", "--inherit-model-tags",
                    "--deploy-on-stage", "Production", statuses=("Running", "Completed", "Failed", "Canceled"))
    try:
        experiment, name = tracking.rest("experiments/create", {"name": unique("options")})["experiment_id"], unique("churn")
        run = tracking.create_run(experiment)
        tracking.rest("runs/log-metric", {"run_id": run, "key": "auc", "value": 0.75, "timestamp": int(time.time() * 1000), "step": 3})
        tracking.rest("runs/log-metric", {"run_id": run, "key": "loss", "value": "NaN", "timestamp": int(time.time() * 1000)})
        tracking.update_run(run, "FINISHED", end_time=int(time.time() * 1000))
        tracking.rest("registered-models/create", {"name": name, "tags": [{"key": "team", "value": "growth"}, {"key": "stage", "value": "none"}]})
        tracking.rest("model-versions/create", {"name": name, "source": "s3://models/1", "tags": [{"key": "stage", "value": "candidate"}]})
        tracking.rest("model-versions/transition-stage", {"name": name, "version": "1", "stage": "Production", "archive_existing_versions": False})
        events = bridge.handler.wait(lambda events: len({e["id"] for e in events}) >= 5, timeout=60)
        by_type = {(e["eventType"].rsplit(".", 1)[1], e["data"].get("runStatus")): e for e in events}
        assert set(by_type) == {("RunStatusChanged", "Running"), ("RunStatusChanged", "Completed"), ("RunCompleted", None), ("ModelRegistered", None), ("ModelDeployed", None)}
        completed = by_type["RunCompleted", None]
        guid = completed["data"]["experimentId"]
        assert len(guid) == 36 and guid[14] == "5" and completed["subject"] == f"experiments/{guid}/runs/{run}"
        assert completed["data"]["runProperties"]["mlflow.metric.auc"] == "0.75" and completed["data"]["runProperties"]["mlflow.metric.loss"] == "NaN"
        assert by_type["RunStatusChanged", "Running"]["data"]["sequencer"] < by_type["RunStatusChanged", "Completed"]["data"]["sequencer"]
        assert by_type["ModelRegistered", None]["data"]["modelTags"] == {"team": "growth", "stage": "candidate"}
        deployed = by_type["ModelDeployed", None]["data"]
        assert deployed["serviceName"] == f"{name}@Production" and deployed["serviceComputeType"] == "MLFLOW" and deployed["modelIds"] == f"{name}:1"
        assert bridge.server.command("endpoint", "show", "--name", f"{name}@Production")["properties"]["state"] == "Healthy"
    finally:
        bridge.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that takes a password or a token, has workspaces, and lies behind a prefix."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "either.py").write_text(f"""
from flask import request
from mlflow.server.auth import authenticate_request_basic_auth, make_basic_auth_response
from werkzeug.datastructures import Authorization


def authenticate():
    sent = request.headers.get("Authorization", "")
    if sent.startswith("Bearer "):
        return Authorization("basic", {{"username": "admin", "password": ""}}) if sent == "Bearer {TOKEN}" else make_basic_auth_response()
    return authenticate_request_basic_auth()
""")
    (directory / "auth.ini").write_text(f"""[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{directory}/auth.db
admin_username = admin
admin_password = {PASSWORD}
authorization_function = either:authenticate
auth_cache_ttl_seconds = 60
""")
    tracking = Tracking(directory, "--app-name", "basic-auth", "--static-prefix", "/team/mlflow", "--enable-workspaces", prefix="/team/mlflow", auth=("admin", PASSWORD), environment={
        "MLFLOW_AUTH_CONFIG_PATH": str(directory / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-this-test", "PYTHONPATH": str(directory), "MLFLOW_DISABLE_TELEMETRY": "true"})
    yield tracking
    tracking.close()


def test_guarded(tmp_path, guarded, make_handler, unique):
    """Basic and Bearer, the prefix, and one workspace of two."""
    team = {"headers": {"X-MLFLOW-WORKSPACE": "team-a"}}
    requests.post(guarded.url + "/team/mlflow/ajax-api/3.0/mlflow/workspaces", json={"name": "team-a"}, auth=guarded.auth, timeout=60).raise_for_status()
    (tmp_path / "password").write_text(PASSWORD + "\n")
    (tmp_path / "token").write_text(TOKEN)
    flags = ["--poll-interval", "1", "--static-prefix", "/team/mlflow", "--mlflow-workspace", "team-a"]
    bridge = Bridge(tmp_path, make_handler(), guarded.url, *flags, "--username", "admin", "--password-file", str(tmp_path / "password"))
    try:
        want = []

        def work():
            experiment = guarded.rest("experiments/create", {"name": unique("guarded")}, **team)["experiment_id"]
            run = guarded.rest("runs/create", {"experiment_id": experiment, "start_time": int(time.time() * 1000)}, **team)["run"]["info"]["run_id"]
            guarded.rest("runs/update", {"run_id": run, "status": "FAILED", "end_time": int(time.time() * 1000)}, **team)
            want.extend(ended(experiment, run, "Failed"))
            guarded.update_run(guarded.create_run("0"), "FAILED")  # of the default workspace, which nobody follows
            bridge.wait(*want)

        work()
        bridge.attach(guarded.url, *flags, "--token-file", str(tmp_path / "token"))
        work()
        bridge.settle()
        bridge.wait(*want)
        assert bridge.server.command("mlflow", "show")["properties"]["authentication"] == "Bearer"

        def refused(**properties) -> str:
            """The refusal of a change, which changes nothing."""
            answer = requests.put(f"{bridge.server.url}{WORKSPACE_ID}/providers/Carillon.MLflow/servers/default?api-version=2026-11-01", verify=bridge.server.ca, timeout=60,
                                  headers={"Authorization": f"Bearer {bridge.server.token}"},
                                  json={"properties": {"url": guarded.url, "staticPrefix": "/team/mlflow", "mlflowWorkspace": "team-a", **properties}})
            assert answer.status_code == 400 and not bridge.server.command("mlflow", "show")["properties"]["webhook"]
            return answer.text

        assert "401" in (said := refused(token="another-t0ken")) and "another-t0ken" not in said
        # As it is delivered, a server calls neither plain http nor this machine.
        assert "Invalid webhook URL scheme" in refused(webhook=True, webhookOrigin="http://127.0.0.1:7443")
        assert "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS" in refused(webhook=True, webhookOrigin="https://127.0.0.1:7443")
    finally:
        bridge.close()
