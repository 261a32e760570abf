"""A real MLflow server, driven by its unmodified client: every change that raises an
event does so exactly once, also those that nobody saw. Source: spec/workspace.md
sections 5 and 8."""

import collections
import os
import socket
import subprocess
import sys
import time

import pytest
import requests

os.environ.update(MLFLOW_ENABLE_ASYNC_LOGGING="false", MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true", GIT_PYTHON_REFRESH="quiet")
import mlflow  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from azure.mgmt.eventgrid.models import EventSubscription, WebHookEventSubscriptionDestination  # noqa: E402

from server import WORKSPACE_ID, OwnServer  # noqa: E402

PREFIX = "Microsoft.MachineLearningServices."


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """The address of an MLflow server with one run and one model from before."""
    directory = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = open(directory / "log", "wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
         "--backend-store-uri", f"sqlite:///{directory}/mlflow.db", "--artifacts-destination", str(directory / "artifacts")],
        stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                if requests.get(url + "/health", timeout=5).ok:
                    break
            except requests.RequestException:
                pass
            assert process.poll() is None, (directory / "log").read_text()
            time.sleep(0.5)
        mlflow.set_tracking_uri(url)
        with mlflow.start_run():
            pass
        MlflowClient().create_registered_model("before")
        MlflowClient().create_model_version("before", "s3://models/before")
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


class Bridge:
    """A Carillon server that follows MLflow, and what its handler got."""

    def __init__(self, server, handler):
        self.server, self.handler = server, handler

    def wait(self, *wanted, timeout=60):
        """Waits for events, each as (type, subject, status or None), and holds that there
        is nothing else and nothing twice."""
        want = collections.Counter(wanted)

        def got(events):
            return collections.Counter((e["eventType"].removeprefix(PREFIX), e["subject"], e["data"].get("runStatus")) for e in events)

        try:
            events = self.handler.wait(lambda events: not want - got(events), timeout=timeout)
        except Exception:
            raise AssertionError(f"missing {want - got(self.handler.events())}, got {got(self.handler.events())}")
        assert len({e["id"] for e in events}) == len(events)
        return {(e["eventType"].removeprefix(PREFIX), e["subject"], e["data"].get("runStatus")): e for e in events}

    def settle(self):
        """Waits for some whole rounds, so that what was going to come has come."""
        for _ in range(3):
            last = self.status()["lastRound"]
            for _ in range(300):
                if self.status()["lastRound"] != last:
                    break
                time.sleep(0.1)

    def status(self):
        return self.server.command("mlflow", "show")["properties"]["status"]

    def events(self):
        return collections.Counter((e["eventType"].removeprefix(PREFIX), e["subject"], e["data"].get("runStatus")) for e in self.handler.events())


@pytest.fixture
def bridge(tmp_path, tracking, make_handler):
    server, handler = OwnServer(tmp_path), make_handler()
    try:
        server.command("workspace", "update", "default", "--status-events", "Completed", "Failed", "Canceled")
        with server.management() as management:
            management.event_subscriptions.begin_create_or_update(WORKSPACE_ID, "all", EventSubscription(
                destination=WebHookEventSubscriptionDestination(endpoint_url=handler.url))).result()
        server.command("mlflow", "attach", tracking, "--poll-interval", "1")
        bridge = Bridge(server, handler)
        for _ in range(300):
            if bridge.status()["state"] == "Following":
                break
            time.sleep(0.1)
        yield bridge
    finally:
        server.close()


def ended(experiment, run, status):
    subject = f"experiments/{experiment}/runs/{run}"
    events = [("RunStatusChanged", subject, status)]
    return events + [("RunCompleted", subject, None)] if status == "Completed" else events


def test_runs(bridge, unique):
    client, name = MlflowClient(), f"Team A / {unique('churn')}"
    experiment = mlflow.set_experiment(name).experiment_id
    with mlflow.start_run() as parent:
        mlflow.log_param("lr", 0.1)
        mlflow.log_metric("auc", 0.9)
        mlflow.set_tag("team", "growth")
        with mlflow.start_run(nested=True) as child:
            pass
    with pytest.raises(ValueError):
        with mlflow.start_run() as failed:
            raise ValueError("the training broke")
    killed = client.create_run(experiment)
    client.set_terminated(killed.info.run_id, "KILLED")
    want = [*ended(experiment, parent.info.run_id, "Completed"), *ended(experiment, child.info.run_id, "Completed"),
            *ended(experiment, failed.info.run_id, "Failed"), *ended(experiment, killed.info.run_id, "Canceled")]
    got = bridge.wait(*want)
    data = got["RunCompleted", f"experiments/{experiment}/runs/{parent.info.run_id}", None]["data"]
    assert data["experimentName"] == name and data["runTags"] == {"team": "growth"} and data["runProperties"]["mlflow.param.lr"] == "0.1"
    assert got["RunCompleted", f"experiments/{experiment}/runs/{child.info.run_id}", None]["data"]["runType"].endswith(".child")

    with mlflow.start_run(run_id=parent.info.run_id):  # resumed, long enough to be seen
        for _ in range(300):
            shown = bridge.server.command("run", "show", "--experiment", experiment, "--run-id", parent.info.run_id)
            if shown["properties"]["status"] == "Running":
                break
            time.sleep(0.1)
    want += ended(experiment, parent.info.run_id, "Completed")
    bridge.wait(*want)
    client.delete_run(killed.info.run_id)
    bridge.settle()
    assert bridge.events() == collections.Counter(want)


class Twice(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input * 2


def test_models(bridge, unique):
    client, name = MlflowClient(), unique("Churn")
    experiment = mlflow.set_experiment(unique("models")).experiment_id
    with mlflow.start_run() as run:
        mlflow.pyfunc.log_model(name="model", python_model=Twice(), registered_model_name=name, pip_requirements=["mlflow"])
    client.set_model_version_tag(name, "1", "stage", "candidate")
    want = [*ended(experiment, run.info.run_id, "Completed"), ("ModelRegistered", f"models/{name}:1", None)]
    got = bridge.wait(*want)
    data = got["ModelRegistered", f"models/{name}:1", None]["data"]
    assert data["modelProperties"]["mlflow.runId"] == run.info.run_id and data["modelVersion"] == "1"

    client.set_registered_model_alias(name, "champion", "1")
    client.create_model_version(name, "s3://models/2", tags={"ncd": "true"})
    client.delete_model_version(name, "1")
    mlflow.genai.register_prompt(name=unique("greeting"), template="Say {{word}}")
    want.append(("ModelRegistered", f"models/{name}:2", None))
    assert bridge.wait(*want)["ModelRegistered", f"models/{name}:2", None]["data"]["modelTags"] == {"ncd": "true"}

    client.rename_registered_model(name, name + "-2")
    client.create_registered_model(name)
    client.create_model_version(name, "s3://models/1")
    want.append(("ModelRegistered", f"models/{name}:1", None))  # another version 1
    bridge.wait(*want)
    bridge.settle()
    assert bridge.events() == collections.Counter(want)


def test_aliases_and_stages(bridge, unique):
    """Events beyond Azure's, of what MLflow's own webhooks tell in part and nobody else."""
    ours, client, name = "Carillon.MachineLearning.", MlflowClient(), unique("Alias")
    kinds = [ours + kind for kind in ("ModelAliasSet", "ModelAliasRemoved", "ModelStageChanged")]
    bridge.server.command("workspace", "update", "default", "--extra-events", *[kind.removeprefix(ours) for kind in kinds])
    bridge.server.command("event-subscription", "create", "ours", "--endpoint", bridge.handler.url, "--included-event-types", *kinds)
    client.create_registered_model(name)
    for version in ("1", "2"):
        client.create_model_version(name, "s3://models/" + version)
    client.set_registered_model_alias(name, "champion", "1")
    want = [("ModelRegistered", f"models/{name}:{version}", None) for version in ("1", "2")] + [(ours + "ModelAliasSet", f"models/{name}:1", None)]
    bridge.wait(*want)
    client.set_registered_model_alias(name, "champion", "2")
    want += [(ours + "ModelAliasRemoved", f"models/{name}:1", None), (ours + "ModelAliasSet", f"models/{name}:2", None)]
    got = bridge.wait(*want)
    assert got[want[-1]]["data"]["alias"] == "champion" and got[want[-1]]["data"]["modelProperties"]["mlflow.aliases"] == "champion"
    client.transition_model_version_stage(name, "2", "Staging")
    want.append((ours + "ModelStageChanged", f"models/{name}:2", None))
    changed = bridge.wait(*want)[want[-1]]["data"]
    assert (changed["stage"], changed["previousStage"]) == ("Staging", "None")
    client.delete_registered_model_alias(name, "champion")
    want.append((ours + "ModelAliasRemoved", f"models/{name}:2", None))
    bridge.wait(*want)
    bridge.settle()
    assert bridge.events() == collections.Counter(want)


def test_outage(bridge, unique):
    """Carillon is killed; 20 runs of all kinds and a model come meanwhile."""
    client, model = MlflowClient(), unique("outage")
    experiment = mlflow.set_experiment(unique("outage")).experiment_id
    before = [client.create_run(experiment).info.run_id for _ in range(5)]
    finished = client.create_run(experiment).info.run_id
    client.set_terminated(finished)
    bridge.wait(*ended(experiment, finished, "Completed"))
    bridge.settle()
    bridge.server.kill()

    want = ended(experiment, finished, "Completed")
    statuses = {"FINISHED": "Completed", "FAILED": "Failed", "KILLED": "Canceled"}
    kinds = list(statuses) * 5

    def end(run, status):
        client.set_terminated(run, status)
        want.extend(ended(experiment, run, statuses[status]))

    for run, status in zip(before, kinds):
        end(run, status)
    for status in kinds[:12]:
        end(client.create_run(experiment).info.run_id, status)
    long_ago = int((time.time() - 30 * 86400) * 1000)
    for status in ("FAILED", "KILLED"):  # imported
        run = client.create_run(experiment, start_time=long_ago).info.run_id
        client.set_terminated(run, status, end_time=long_ago + 1000)
        want.extend(ended(experiment, run, statuses[status]))
    client.update_run(finished, status="RUNNING")  # resumed, and failed then
    end(finished, "FAILED")
    client.create_registered_model(model)
    client.create_model_version(model, "s3://models/1")
    want.append(("ModelRegistered", f"models/{model}:1", None))

    bridge.server.start()
    bridge.wait(*want, timeout=120)
    bridge.settle()
    assert bridge.events() == collections.Counter(want)
