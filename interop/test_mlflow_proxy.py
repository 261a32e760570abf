"""MLflow's unmodified client and user interface through the proxy: each change is an
event at once, with the ids that a workspace without a proxy gives it; nothing is missed
when Carillon is killed in the middle. Source: spec/workspace.md sections 5.5, 5.6 and 8."""

import collections
import os
import threading
import time

import pytest
import requests

os.environ.update(MLFLOW_ENABLE_ASYNC_LOGGING="false", MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true", GIT_PYTHON_REFRESH="quiet")
import mlflow  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from chromium import Chromium  # noqa: E402
from tracking import Bridge, Tracking, ended, word  # noqa: E402

STATUSES = ("Running", "Completed", "Failed", "Canceled")


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    tracking = Tracking(tmp_path_factory.mktemp("mlflow"))
    yield tracking
    tracking.close()


def follow(directory, tracking, handler, interval):
    """A workspace that follows MLflow."""
    directory.mkdir()
    return Bridge(directory, handler, tracking.url, "--poll-interval", interval, statuses=STATUSES)


@pytest.fixture
def proxied(tmp_path, tracking, make_handler, monkeypatch):
    """A workspace whose proxy clients use. Rounds are an hour apart: what is seen sooner,
    the proxy saw."""
    bridge = follow(tmp_path / "proxied", tracking, make_handler(), "3600")
    bridge.url = bridge.status()["proxyUrl"].replace("https://", "http://")  # on this machine
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    mlflow.set_tracking_uri(bridge.url)
    yield bridge
    bridge.close()


class Twice(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input * 2


def started(experiment, run):
    return ("RunStatusChanged", f"experiments/{experiment}/runs/{run}", "Running")


def ids(bridge):
    return {e["id"]: word(e) for e in bridge.handler.events()}


def test_the_client_sees_no_difference_and_ids_are_the_same(proxied, tmp_path, tracking, make_handler, unique):
    polled = follow(tmp_path / "polled", tracking, make_handler(), "1")
    try:
        client, name, model = MlflowClient(), f"Team A / {unique('churn')}", unique("Churn")
        experiment = mlflow.set_experiment(name).experiment_id
        with mlflow.start_run() as parent:
            mlflow.log_param("lr", 0.1)
            mlflow.log_metric("auc", 0.9)
            mlflow.set_tag("team", "growth")
            mlflow.log_text("x" * 100_000, "notes.txt")
            with mlflow.start_run(nested=True) as child:
                pass
        assert mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/notes.txt") == "x" * 100_000
        with pytest.raises(ValueError):
            with mlflow.start_run() as failed:
                raise ValueError("the training broke")
        mlflow.sklearn.autolog(log_models=False)
        try:
            LogisticRegression(C=0.5).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
        finally:
            mlflow.sklearn.autolog(disable=True)
        autologged = mlflow.last_active_run().info.run_id
        killed = client.create_run(experiment).info.run_id
        client.set_terminated(killed, "KILLED")
        subject, want = f"experiments/{experiment}/runs/{parent.info.run_id}", []
        for run, status in ((parent.info.run_id, "Completed"), (child.info.run_id, "Completed"), (autologged, "Completed"), (failed.info.run_id, "Failed"), (killed, "Canceled")):
            want += [started(experiment, run), *ended(experiment, run, status)]
        client.create_registered_model(model)
        client.create_model_version(model, "s3://models/1", run_id=parent.info.run_id)
        client.set_registered_model_alias(model, "champion", "1")
        client.create_model_version(model, "s3://models/2", tags={"ncd": "true"})
        want += [("ModelRegistered", f"models/{model}:{version}", None) for version in (1, 2)]
        got = proxied.wait(*want, timeout=20)
        data = got["RunCompleted", subject, None]["data"]
        assert data["experimentName"] == name and data["runTags"] == {"team": "growth"} and data["runProperties"]["mlflow.param.lr"] == "0.1"
        assert got["RunCompleted", f"experiments/{experiment}/runs/{child.info.run_id}", None]["data"]["runType"].endswith(".child")
        fitted = got["RunCompleted", f"experiments/{experiment}/runs/{autologged}", None]["data"]
        assert fitted["runTags"]["estimator_name"] == "LogisticRegression" and fitted["runProperties"]["mlflow.param.C"] == "0.5"
        polled.settle()

        for _ in range(3):  # resumed, too quick for anybody who only looks
            with mlflow.start_run(run_id=parent.info.run_id):
                pass
            want += [started(experiment, parent.info.run_id), *ended(experiment, parent.info.run_id, "Completed")]
        client.rename_registered_model(model, model + "-2")
        proxied.wait(*want, timeout=20)
        client.delete_run(killed)
        polled.settle()
        client.create_registered_model(model)
        client.create_model_version(model, "s3://models/1")
        want.append(("ModelRegistered", f"models/{model}:1", None))  # another version 1
        proxied.wait(*want, timeout=20)
        polled.settle()
        seen, polled_ids = ids(proxied), ids(polled)
        assert collections.Counter(seen.values()) == collections.Counter(want)
        assert polled_ids.items() <= seen.items()
        again = {id for id, what in seen.items() if what[1] == subject}  # of it rounds may have missed something
        missed = {what for id, what in seen.items() if id not in polled_ids and id not in again}
        assert all(status == "Running" for _, _, status in missed), missed

        answer = requests.get(proxied.url + "/api/2.0/mlflow/runs/get", params={"run_id": "nobody"}, timeout=30)
        direct = requests.get(tracking.url + "/api/2.0/mlflow/runs/get", params={"run_id": "nobody"}, timeout=30)
        same = ("content-type", "content-length", "server", "x-frame-options", "vary")
        assert (answer.status_code, answer.content) == (direct.status_code, direct.content)
        assert [answer.headers.get(h) for h in same] == [direct.headers.get(h) for h in same] and "x-ms-request-id" not in answer.headers
    finally:
        polled.close()


def test_killed_in_the_middle(proxied, tracking, unique):
    """kill -9 while clients change runs, three times: nothing is missed, nothing twice."""
    experiment = mlflow.set_experiment(unique("killed")).experiment_id
    statuses, errors = ["FINISHED", "FAILED", "KILLED"], []

    def work():
        client = MlflowClient()
        try:
            for i in range(12):
                run = client.create_run(experiment).info.run_id
                client.log_param(run, "i", i)
                client.set_terminated(run, statuses[i % 3])
        except Exception as problem:  # noqa: BLE001
            errors.append(problem)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for w in workers:
        w.start()
    for _ in range(3):
        time.sleep(0.7)
        proxied.server.kill()
        proxied.server.start()
    for w in workers:
        w.join()
    assert not errors
    mlflow.set_tracking_uri(tracking.url)
    words = {"FINISHED": "Completed", "FAILED": "Failed", "KILLED": "Canceled"}
    truth = collections.Counter()
    for run in MlflowClient().search_runs([experiment], max_results=1000):  # one more where a creation was repeated
        if run.info.status in words:
            truth.update(ended(experiment, run.info.run_id, words[run.info.status]))
    assert sum(status in words.values() for _, _, status in truth) >= 36

    def terminal():
        return collections.Counter(what for what in ids(proxied).values() if what[2] != "Running")

    end = time.monotonic() + 60
    while terminal() != truth and time.monotonic() < end:
        time.sleep(0.2)
    assert terminal() == truth


def test_the_user_interface(proxied, tmp_path, unique):
    """A user opens an experiment and a run, and registers a model by clicking."""
    model = unique("Clicked")
    experiment = mlflow.set_experiment(unique("by-hand")).experiment_id
    with mlflow.start_run(run_name="the one") as run:
        logged = mlflow.pyfunc.log_model(name="model", python_model=Twice(), pip_requirements=["mlflow"])
    want = [started(experiment, run.info.run_id), *ended(experiment, run.info.run_id, "Completed")]
    (tmp_path / "browser").mkdir()
    browser = Chromium(tmp_path / "browser")
    try:
        browser.open(proxied.url)  # the slash behind it is the server's to add
        browser.see("Experiments")
        browser.open(f"{proxied.url}/#/experiments/{experiment}/runs")
        browser.click("//a[normalize-space()='the one']")
        browser.see(run.info.run_id)
        browser.open(f"{proxied.url}/#/experiments/{experiment}/models/{logged.model_id}")
        browser.click("//button[normalize-space()='Register model']")
        browser.click("//div[@role='dialog']//div[contains(@class, 'select-selector')]")
        browser.click("//div[contains(@class, 'select-item-option') and contains(., 'Create New Model')]")
        browser.type("//div[@role='dialog']//input[@id='modelName']", model)
        browser.click("//div[@role='dialog']//button[normalize-space()='Register']")
        browser.see(model)
    finally:
        browser.close()
    got = proxied.wait(*want, ("ModelRegistered", f"models/{model}:1", None), timeout=30)
    assert got["ModelRegistered", f"models/{model}:1", None]["data"]["modelProperties"]["mlflow.runId"] == run.info.run_id
