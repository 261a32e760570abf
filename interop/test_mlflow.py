"""A real MLflow server, driven by its unmodified client: every change that raises an
event does so exactly once, also those that nobody saw. `run` has it run with two
releases of MLflow, the newest of each major version that servers are. Source:
spec/workspace.md sections 5 and 8."""

import collections
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

os.environ.update(MLFLOW_ENABLE_ASYNC_LOGGING="false", MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true", GIT_PYTHON_REFRESH="quiet")
import mlflow  # noqa: E402
from mlflow import MlflowClient  # noqa: E402

from tracking import Bridge, Tracking, ended  # noqa: E402

OLD = mlflow.__version__.startswith("2.")


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """An MLflow server with one run and one model from before."""
    tracking = Tracking(tmp_path_factory.mktemp("mlflow"))
    try:
        mlflow.set_tracking_uri(tracking.url)
        with mlflow.start_run():
            pass
        MlflowClient().create_registered_model("before")
        MlflowClient().create_model_version("before", "s3://models/before")
        yield tracking
    finally:
        tracking.close()


@pytest.fixture
def bridge(tmp_path, tracking, make_handler):
    bridge = Bridge(tmp_path, make_handler(), tracking.url, "--poll-interval", "1")
    yield bridge
    bridge.close()


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
        mlflow.pyfunc.log_model(**{"artifact_path" if OLD else "name": "model"}, python_model=Twice(), registered_model_name=name, pip_requirements=["mlflow"])
    client.set_model_version_tag(name, "1", "stage", "candidate")
    want = [*ended(experiment, run.info.run_id, "Completed"), ("ModelRegistered", f"models/{name}:1", None)]
    got = bridge.wait(*want)
    data = got["ModelRegistered", f"models/{name}:1", None]["data"]
    assert data["modelProperties"]["mlflow.runId"] == run.info.run_id and data["modelVersion"] == "1"

    client.set_registered_model_alias(name, "champion", "1")
    client.create_model_version(name, "s3://models/2", tags={"ncd": "true"})
    client.delete_model_version(name, "1")
    register_prompt = mlflow.register_prompt if OLD else mlflow.genai.register_prompt
    register_prompt(name=unique("greeting"), template="Say {{word}}")
    want.append(("ModelRegistered", f"models/{name}:2", None))
    assert bridge.wait(*want)["ModelRegistered", f"models/{name}:2", None]["data"]["modelTags"] == {"ncd": "true"}

    client.rename_registered_model(name, name + "-2")
    client.create_registered_model(name)
    client.create_model_version(name, "s3://models/1")
    want.append(("ModelRegistered", f"models/{name}:1", None))  # another version 1
    bridge.wait(*want)
    client.delete_registered_model(name)
    client.create_registered_model(name)
    client.create_model_version(name, "s3://models/1")
    want.append(("ModelRegistered", f"models/{name}:1", None))  # and another
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


STATUSES = {"FINISHED": "Completed", "FAILED": "Failed", "KILLED": "Canceled"}


def test_outage(bridge, tracking, unique):
    """Carillon is down while 100 runs of all kinds and a model come, and killed again and
    again while it catches up: each end is an event exactly once."""
    model = unique("outage")
    experiment = tracking.rest("experiments/create", {"name": unique("outage")})["experiment_id"]
    pick = random.Random(7)
    long_ago = int((time.time() - 30 * 86400) * 1000)

    def run(kind: int) -> list:
        """Makes what a run of a kind does while Carillon is down; returns its events."""
        status = pick.choice(list(STATUSES))
        match kind:
            case 0 | 1:  # starts and ends
                id = tracking.create_run(experiment)
                tracking.update_run(id, status, end_time=int(time.time() * 1000))
            case 2:  # was killed with its client: there is no end time
                id, status = tracking.create_run(experiment), "KILLED"
                tracking.update_run(id, status)
            case 3:  # imported, with times long gone
                id = tracking.create_run(experiment, start_time=long_ago)
                tracking.update_run(id, status, end_time=long_ago + 1000)
            case 4:  # goes on, and ends
                id = going_on.pop()
                tracking.update_run(id, status, end_time=int(time.time() * 1000))
            case 5:  # was finished, is resumed and fails
                id, status = done.pop(), "FAILED"
                tracking.update_run(id, "RUNNING")
                tracking.update_run(id, status, end_time=int(time.time() * 1000))
        return ended(experiment, id, STATUSES[status])

    with ThreadPoolExecutor(8) as threads:
        going_on = list(threads.map(lambda _: tracking.create_run(experiment), range(20)))
        done = list(threads.map(lambda _: tracking.create_run(experiment), range(15)))
        list(threads.map(lambda id: tracking.update_run(id, "FINISHED", end_time=int(time.time() * 1000)), done))
        want = [event for id in done for event in ended(experiment, id, "Completed")]
        bridge.wait(*want)
        bridge.settle()
        bridge.server.kill()

        kinds = [0] * 25 + [1] * 15 + [2] * 15 + [3] * 10 + [4] * 20 + [5] * 15
        pick.shuffle(kinds)
        for events in threads.map(run, kinds):
            want += events
    tracking.rest("registered-models/create", {"name": model})
    tracking.rest("model-versions/create", {"name": model, "source": "s3://models/1"})
    want.append(("ModelRegistered", f"models/{model}:1", None))

    seen = []
    for more in (1, 15, 40):  # events after which it is killed, in the middle of the first rounds
        enough = len(bridge.handler.events()) + more
        bridge.server.launch()  # what was stored is delivered at once, maybe before it is ready
        bridge.handler.wait(enough, 60)
        bridge.server.kill()
        seen.append(bridge.events().total())
    print(f"events after each kill: {seen} of {len(want)}")
    bridge.server.start()
    bridge.wait(*want, timeout=120)
    bridge.settle()
    assert bridge.events() == collections.Counter(want)
