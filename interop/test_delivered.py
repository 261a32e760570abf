"""What is delivered, read with the SDKs' own parsers: events of a topic, and the
five events of a workspace, each in both schemas. What arrives of the five is kept
for deserialize.test.mjs. Source: spec/events.md section 4, spec/delivery.md
section 2, spec/workspace.md section 2."""

import json
import os
import re
from datetime import datetime, timezone
from pathlib import Path

import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, EventGridPublisherClient, SystemEventNames

from server import WORKSPACE_ID

FIVE = {
    SystemEventNames.MachineLearningServicesRunCompletedEventName: {"experimentId", "experimentName", "runId", "runType", "runTags", "runProperties"},
    SystemEventNames.MachineLearningServicesRunStatusChangedEventName: {
        "experimentId", "experimentName", "runId", "runType", "runTags", "runProperties", "runStatus"},
    SystemEventNames.MachineLearningServicesModelRegisteredEventName: {"modelName", "modelVersion", "modelTags", "modelProperties"},
    SystemEventNames.MachineLearningServicesModelDeployedEventName: {
        "serviceName", "serviceComputeType", "modelIds", "serviceTags", "serviceProperties"},
    SystemEventNames.MachineLearningServicesDatasetDriftDetectedEventName: {
        "dataDriftId", "dataDriftName", "runId", "baseDatasetId", "targetDatasetId", "driftCoefficient", "startTime", "endTime",
        "driftDetected"},  # ours: the verdict
}
FIVE = {str(getattr(name, "value", name)): fields for name, fields in FIVE.items()}


def grid_events(handler) -> list:
    """Every delivered event as the SDK reads it."""
    return [EventGridEvent.from_json(json.dumps(e)) for e in handler.events()]


def cloud_events(handler) -> list:
    return [CloudEvent.from_json(d.body) for d in handler.deliveries()]


def test_events_of_a_topic(make_topic, make_handler, subscribe, server):
    topic, keys = make_topic()
    grid, cloud = make_handler(), make_handler()
    name = subscribe(topic.id, grid).name
    subscribe(topic.id, cloud, "CloudEventSchemaV1_0")
    data = {"text": "Zoë \"☂\" <&>", "big": 12345678901234567890, "fraction": 0.1, "none": None, "list": [True, {}]}
    when = datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=timezone.utc)
    with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(keys.key1)) as client:
        client.send(EventGridEvent("orders/1", "Shop.OrderPlaced", data, "1.7", id="e1", event_time=when))
    grid.wait(1)
    cloud.wait(1)

    [event] = grid_events(grid)
    assert (event.id, event.subject, event.event_type, event.data, event.data_version) == ("e1", "orders/1", "Shop.OrderPlaced", data, "1.7")
    assert (event.topic, event.metadata_version) == (topic.id, "1")
    assert instant(str(event.event_time)) == when
    [delivery] = grid.deliveries()
    assert isinstance(json.loads(delivery.body), list)  # an array of one
    assert {h: delivery.headers.get(h) for h in delivery.headers if h.startswith("aeg-") and h != "aeg-output-event-id"} == {
        "aeg-event-type": "Notification", "aeg-subscription-name": name.upper(), "aeg-delivery-count": "0",
        "aeg-data-version": "1.7", "aeg-metadata-version": "1"}
    assert delivery.headers["content-type"] == "application/json; charset=utf-8"

    [event] = cloud_events(cloud)
    assert (event.id, event.subject, event.type, event.data, event.source) == ("e1", "orders/1", "Shop.OrderPlaced", data, topic.id)
    assert event.specversion == "1.0" and event.time == when
    [delivery] = cloud.deliveries()
    assert delivery.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert delivery.headers["aeg-metadata-version"] == "1.0" and "aeg-data-version" not in delivery.headers
    assert delivery.headers["webhook-request-origin"] == "eventgrid.azure.net"


def raise_the_five(server, unique) -> dict:
    """Records the facts that raise the five events; returns what each should carry."""
    experiment, model, endpoint, monitor = unique("churn"), unique("xgb"), unique("api"), unique("orders")
    runs = f"experiments/{experiment}/runs"
    tags, properties = {"team": "growth"}, {"gitCommit": "3f1c2aa", "n": "5"}
    server.record("PUT", f"{runs}/r1", status="Running", runType="script", tags=tags, properties=properties)
    server.record("PATCH", f"{runs}/r1", status="Completed")
    server.record("PUT", f"{runs}/r2", status="Running", runType="script", tags=tags, properties=properties)
    server.record("PATCH", f"{runs}/r2", status="Failed")
    made = server.record("POST", f"models/{model}/versions", tags=tags, properties=properties)
    assert made["name"].endswith("1")
    server.record("PUT", f"onlineEndpoints/{endpoint}", computeType="AKS", modelIds=f"{model}:1,scaler:2", tags=tags, properties=properties,
                  state="Transitioning")
    server.record("PATCH", f"onlineEndpoints/{endpoint}", state="Healthy")
    drift = server.record("PUT", f"driftMonitors/{monitor}", threshold=0.2, baseline={"datasetId": "a1"}, target={"datasetId": "b2"})["properties"]
    drift_run = server.record("POST", f"driftMonitors/{monitor}/runs", startTime=WINDOW[0].isoformat(), endTime=WINDOW[1].isoformat(),
                              driftCoefficient=0.41)["properties"]["runId"]
    experiment_id = server.record("GET", f"experiments/{experiment}")["properties"]["experimentId"]
    run = {"experimentId": experiment_id, "experimentName": experiment, "runType": "script", "runTags": tags, "runProperties": properties}
    prefix = "Microsoft.MachineLearningServices."
    return {
        (prefix + "RunCompleted", f"experiments/{experiment_id}/runs/r1"): {**run, "runId": "r1"},
        (prefix + "RunStatusChanged", f"experiments/{experiment_id}/runs/r2"): {**run, "runId": "r2", "runStatus": "Failed"},
        (prefix + "ModelRegistered", f"models/{model}:1"): {
            "modelName": model, "modelVersion": "1", "modelTags": tags, "modelProperties": properties},
        (prefix + "ModelDeployed", f"endpoints/{endpoint}"): {
            "serviceName": endpoint, "serviceComputeType": "AKS", "modelIds": f"{model}:1,scaler:2", "serviceTags": tags, "serviceProperties": properties},
        (prefix + "DatasetDriftDetected", f"datadrift/{drift['dataDriftId']}/run/{drift_run}"): {
            "dataDriftId": drift["dataDriftId"], "dataDriftName": monitor, "runId": drift_run, "baseDatasetId": "a1", "targetDatasetId": "b2",
            "driftCoefficient": 0.41, "startTime": WINDOW[0], "endTime": WINDOW[1]},
    }


WINDOW = (datetime(2026, 2, 23, tzinfo=timezone.utc), datetime(2026, 3, 2, tzinfo=timezone.utc))


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def compared(data: dict) -> dict:
    """Data as it is compared: the instant counts, not how it is spelled."""
    return {name: instant(value) if name in ("startTime", "endTime") else value for name, value in data.items()}


def test_the_five_events(server, make_handler, subscribe, unique):
    grid, cloud = make_handler(), make_handler()
    subscribe(WORKSPACE_ID, grid)
    subscribe(WORKSPACE_ID, cloud, "CloudEventSchemaV1_0")
    want = raise_the_five(server, unique)
    for handler in (grid, cloud):
        handler.wait(6)  # the drift job is a run too, and completes
    out = Path(os.environ["CARILLON_DELIVERED"])
    (out / "eventgrid.json").write_text(json.dumps([d.body.decode() for d in grid.deliveries()]))
    (out / "cloudevents.json").write_text(json.dumps([d.body.decode() for d in cloud.deliveries()]))

    by_subject = {(e.event_type, e.subject): e for e in grid_events(grid)}
    clouds = {(e.type, e.subject): e for e in cloud_events(cloud)}
    assert set(by_subject) == set(clouds) and set(want) <= set(by_subject)
    assert {kind for kind, _ in by_subject} == set(FIVE)
    for key, data in want.items():
        event, cloud_event = by_subject[key], clouds[key]
        assert (event.topic, event.data_version, event.metadata_version) == (WORKSPACE_ID, "2", "1")
        assert (cloud_event.source, cloud_event.id, cloud_event.data) == (WORKSPACE_ID, event.id, event.data)
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", event.id)
        assert set(event.data) == FIVE[key[0]] | {"etag", "sequencer"}
        assert compared({name: event.data[name] for name in data}) == data
        assert re.fullmatch(r"[0-9a-f]{32}", event.data["sequencer"]) and event.data["etag"]
        assert cloud_event.extensions["sequence"] == event.data["sequencer"]
    assert len({e.data["sequencer"] for e in by_subject.values()}) == len(by_subject)


@pytest.mark.parametrize("fact, path, kind", [
    ("a model version", "models/{}/versions/3", "ModelRegistered"),
    ("an endpoint", "onlineEndpoints/{}", "ModelDeployed"),
])
def test_etag_of_the_event_is_the_resource_s(server, make_handler, subscribe, unique, fact, path, kind):
    handler = make_handler()
    subscribe(WORKSPACE_ID, handler)
    path = path.format(unique("thing"))
    server.record("PUT", path, **({"state": "Transitioning", "computeType": "ACI", "modelIds": "m:1"} if kind == "ModelDeployed" else {}))
    if kind == "ModelDeployed":
        server.record("PATCH", path, state="Healthy")
    [event] = [e for e in handler.wait(1) if e["eventType"].endswith(kind)]
    assert server.record("GET", path)["etag"] == event["data"]["etag"]
