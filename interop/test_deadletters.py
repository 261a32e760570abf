"""Dead letters in blob storage: path, name and content as documented, read with
Azure's own client; a store that is down for a while gets everything later.
Source: spec/delivery.md section 7."""

import json
import re
import time
from datetime import datetime, timezone

import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, EventGridPublisherClient
from azure.mgmt.eventgrid.models import (
    EventSubscription, RetryPolicy, StorageBlobDeadLetterDestination, Topic, WebHookEventSubscriptionDestination)

from azurite import Azurite
from server import GROUP, GROUP_ID, OwnServer

ACCOUNT_ID = f"{GROUP_ID}/providers/Microsoft.Storage/storageAccounts/deadletters"
TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    azurite = Azurite(tmp_path_factory.mktemp("azurite"))
    yield azurite
    azurite.close()


@pytest.fixture(scope="module")
def own_server(store, tmp_path_factory):
    server = OwnServer(tmp_path_factory.mktemp("server"), "--dead-letter-delay", "500ms")
    server.connect(ACCOUNT_ID, store.connection)
    yield server
    assert server.stop() == 0
    server.close()


def container(store, name: str) -> str:
    with store.service() as service:
        service.create_container(name)
    return name


def subscribed(server, topic: str, name: str, handler, container: str, schema: str, attempts: int = 1):
    """A topic whose events a handler refuses; returns it and its key."""
    with server.management() as management:
        made = management.topics.begin_create_or_update(GROUP, topic, Topic(location="local", input_schema=schema)).result()
        wanted = StorageBlobDeadLetterDestination(resource_id=ACCOUNT_ID, blob_container_name=container)
        es = management.event_subscriptions.begin_create_or_update(made.id, name, EventSubscription(
            destination=WebHookEventSubscriptionDestination(endpoint_url=handler.url), event_delivery_schema=schema,
            retry_policy=RetryPolicy(max_delivery_attempts=attempts), dead_letter_destination=wanted)).result()
        assert es.dead_letter_destination == wanted
        assert management.event_subscriptions.get(made.id, name).dead_letter_destination == wanted
        return made, management.topics.list_shared_access_keys(GROUP, topic).key1


def letters(store, container: str, count: int, timeout: float = 30) -> dict:
    """Waits for that many dead letters; returns them by id with their blob's name."""
    end = time.monotonic() + timeout
    while True:
        got = {e["id"]: (name, e) for name, (content, _) in store.blobs(container).items() for e in json.loads(content)}
        if len(got) >= count:
            return got
        assert time.monotonic() < end, f"after {timeout} s only {sorted(got)} of {count} dead letters"
        time.sleep(0.2)


def path_of(name: str, when: datetime) -> str:
    return re.escape(f"{name.upper()}/{when.year}/{when.month}/{when.day}/{when.hour}/") + r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.json"


def test_event_grid_letters(own_server, store, make_handler):
    target, before = container(store, "grid-letters"), datetime.now(timezone.utc)
    topic, key = subscribed(own_server, "grid-orders", "To-CI", make_handler("fail"), target, "EventGridSchema")
    with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(key)) as client:
        client.send([EventGridEvent(f"orders/{n}", "Shop.OrderPlaced", {"number": n, "text": "<&>"}, "1.7", id=f"e{n}") for n in range(3)],
                    connection_verify=own_server.ca)
    got = letters(store, target, 3)
    after = datetime.now(timezone.utc)
    for name, letter in got.values():
        assert re.fullmatch(path_of("To-CI", before), name) or re.fullmatch(path_of("To-CI", after), name)
        assert letter.pop("publishTime") and re.fullmatch(TIME, letter.pop("lastDeliveryAttemptTime")) and letter.pop("eventTime")
        n = letter["data"]["number"]
        assert letter == {
            "id": f"e{n}", "topic": topic.id, "subject": f"orders/{n}", "eventType": "Shop.OrderPlaced", "data": {"number": n, "text": "<&>"},
            "dataVersion": "1.7", "metadataVersion": "1", "deadLetterReason": "MaxDeliveryAttemptsExceeded", "deliveryAttempts": 1,
            "lastDeliveryOutcome": "GenericError", "lastHttpStatusCode": 500}
    for content, content_type in store.blobs(target).values():
        assert content_type == "application/json" and isinstance(json.loads(content), list)
    kept = own_server.command("deadletter", "list", "--source-resource-id", topic.id)
    assert {letter["event"]["id"] for letter in kept} == set(got)  # the server's own stay


def test_cloud_event_letters(own_server, store, make_handler):
    target = container(store, "cloud-letters")
    topic, key = subscribed(own_server, "cloud-orders", "cloud", make_handler("fail"), target, "CloudEventSchemaV1_0")
    with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(key)) as client:
        client.send(CloudEvent(source="/shop", type="Shop.OrderPlaced", id="c1", data={"n": 1}), connection_verify=own_server.ca)
    [(_, letter)] = letters(store, target, 1).values()
    assert re.fullmatch(TIME, letter.pop("publishtime")) and re.fullmatch(TIME, letter.pop("lastdeliveryattempttime")) and letter.pop("time")
    assert letter == {
        "specversion": "1.0", "id": "c1", "source": "/shop", "type": "Shop.OrderPlaced", "data": {"n": 1}, "deadletterreason": "MaxDeliveryAttemptsExceeded",
        "deliveryattempts": 1, "lastdeliveryoutcome": "GenericError", "lasthttpstatuscode": 500}


def test_store_that_is_down(own_server, store, make_handler):
    """A container that is not there yet, then a store that does not answer: what was
    given up meanwhile arrives, also over a restart of the server."""
    handler = make_handler("fail")
    topic, key = subscribed(own_server, "outage", "outage", handler, "made-later", "EventGridSchema")

    def publish(*ids):
        with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(key)) as client:
            client.send([EventGridEvent("s", "Shop.OrderPlaced", {}, "1", id=i) for i in ids], connection_verify=own_server.ca)

    def trouble():
        [status] = own_server.status(topic.id)
        return (status["properties"].get("deadLetterStore") or {}).get("problem", "")

    publish("before")
    wait_for(lambda: "ContainerNotFound" in trouble(), "the status names the missing container")
    container(store, "made-later")
    assert set(letters(store, "made-later", 1)) == {"before"}

    store.stop()
    publish("during-1", "during-2")
    wait_for(lambda: "cannot be reached" in trouble(), "the status says that the store cannot be reached")
    own_server.kill()
    own_server.start()
    publish("during-3")
    handler.wait(4)
    store.start()
    assert set(letters(store, "made-later", 4)) == {"before", "during-1", "during-2", "during-3"}
    wait_for(lambda: trouble() == "", "the status is well again")


def test_what_cannot_be_written_is_refused(own_server):
    with own_server.management() as client:
        topic = client.topics.begin_create_or_update(GROUP, "refused", Topic(location="local")).result()
        with pytest.raises(HttpResponseError, match="carillon connection create") as refused:
            client.event_subscriptions.begin_create_or_update(topic.id, "refused", EventSubscription(
                destination=WebHookEventSubscriptionDestination(endpoint_url="https://h.example/"),
                dead_letter_destination=StorageBlobDeadLetterDestination(resource_id=ACCOUNT_ID + "x", blob_container_name="letters"))).result()
        assert refused.value.status_code == 400


def wait_for(holds, what: str, timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.2)
