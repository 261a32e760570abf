"""Publishing with azure-eventgrid: what a topic takes, what it refuses, and how
the SDK sees it. Source: spec/events.md section 8."""

import json
from datetime import datetime, timedelta, timezone

import pytest
from azure.core.credentials import AzureKeyCredential, AzureSasCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError, ServiceRequestError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, EventGridPublisherClient, generate_sas
from azure.mgmt.eventgrid.models import InboundIpRule, TopicUpdateParameters


def publisher(topic, key: str) -> EventGridPublisherClient:
    """A publisher of a topic. REQUESTS_CA_BUNDLE tells it whom to trust."""
    return EventGridPublisherClient(topic.endpoint, AzureKeyCredential(key))


def order(number: int, **named) -> EventGridEvent:
    return EventGridEvent(subject=f"orders/{number}", event_type="Shop.OrderPlaced", data={"number": number, "name": "Zoë ☂"}, data_version="1.0", **named)


def answer_of(error: HttpResponseError) -> tuple:
    """Status, code and code of the detail of a refusal, as the SDK parsed its body."""
    body = json.loads(error.response.text())["error"]
    assert set(body) == {"code", "message", "details"}
    assert body["details"][0]["message"] == body["message"] != ""
    assert error.error.code == body["code"]
    return error.status_code, body["code"], body["details"][0]["code"]


def test_event_grid_events(make_topic, make_handler, subscribe):
    topic, keys = make_topic()
    handler = make_handler()
    subscribe(topic.id, handler)
    sent = [order(n) for n in range(3)]
    with publisher(topic, keys.key1) as client:
        assert client.send(sent) is None
        client.send(order(3, id="one-alone"))
    arrived = {e["id"]: e for e in handler.wait(4)}
    assert set(arrived) == {str(e.id) for e in sent} | {"one-alone"}
    for event in sent:
        got = arrived[str(event.id)]
        assert (got["subject"], got["eventType"], got["data"], got["dataVersion"]) == (event.subject, event.event_type, event.data, "1.0")
        assert got["topic"] == topic.id and got["metadataVersion"] == "1"


def test_event_grid_dictionaries(make_topic, make_handler, subscribe):
    topic, keys = make_topic()
    handler = make_handler()
    subscribe(topic.id, handler)
    event = {"id": "d1", "subject": "orders/1", "eventType": "Shop.OrderPlaced", "data": [1, None, {"deep": True}], "dataVersion": "1.0",
             "eventTime": datetime(2026, 3, 1, 10, 0, 0, tzinfo=timezone.utc)}
    with publisher(topic, keys.key2) as client:  # both keys are valid
        client.send([event, {**event, "id": "d2", "data": "text"}])
    arrived = {e["id"]: e for e in handler.wait(2)}
    assert arrived["d1"]["data"] == event["data"] and arrived["d2"]["data"] == "text"
    assert arrived["d1"]["eventTime"].startswith("2026-03-01T10:00:00")


def test_cloud_events(make_topic, make_handler, subscribe):
    topic, keys = make_topic("CloudEventSchemaV1_0")
    assert topic.input_schema == "CloudEventSchemaV1_0"
    handler = make_handler()
    subscribe(topic.id, handler, "CloudEventSchemaV1_0")
    sent = [
        CloudEvent(source="/shop", type="Shop.OrderPlaced", data={"number": 1, "name": "Zoë ☂"}, subject="orders/1"),
        CloudEvent(source="/shop", type="Shop.OrderPlaced", data="text", extensions={"tenant": "a"}),
        CloudEvent(source="/shop", type="Shop.OrderPlaced", data=b"\x00\xffbinary"),
        CloudEvent(source="/shop", type="Shop.OrderPlaced"),
    ]
    with publisher(topic, keys.key1) as client:
        client.send(sent)
        client.send({"specversion": "1.0", "id": "c1", "source": "/shop", "type": "Shop.OrderPlaced", "data": {"number": 2}})
    handler.wait(5)
    arrived = {e.id: e for e in (CloudEvent.from_json(d.body) for d in handler.deliveries())}
    assert set(arrived) == {e.id for e in sent} | {"c1"}
    for event in sent:
        got = arrived[event.id]
        assert (got.source, got.type, got.subject, got.data) == (event.source, event.type, event.subject, event.data)
    assert arrived[sent[1].id].extensions["tenant"] == "a"
    assert arrived["c1"].data == {"number": 2}


def test_wrong_key(make_topic):
    topic, keys = make_topic()
    other, other_keys = make_topic()
    for key in (other_keys.key1, keys.key1[:-4] + "AAA=", "not a key"):
        with publisher(topic, key) as client, pytest.raises(ClientAuthenticationError) as refusal:
            client.send(order(1))
        assert answer_of(refusal.value) == (401, "Unauthorized", "Unauthorized")
        assert key not in refusal.value.message


def test_regenerated_key(make_topic, management):
    topic, keys = make_topic()
    fresh = management.topics.begin_regenerate_key("local", topic.name, {"keyName": "key1"}).result()
    with publisher(topic, keys.key1) as client, pytest.raises(ClientAuthenticationError):
        client.send(order(1))
    for key in (fresh.key1, keys.key2):
        with publisher(topic, key) as client:
            client.send(order(1))


@pytest.mark.parametrize("expiry", [
    lambda now: now + timedelta(minutes=5),  # with microseconds and offset
    lambda now: now.replace(microsecond=0) + timedelta(minutes=5),
    lambda now: now.replace(tzinfo=None) + timedelta(minutes=5),  # without an offset: UTC
    lambda now: now.astimezone(timezone(timedelta(hours=-7))) + timedelta(minutes=5),
])
def test_shared_access_signature(make_topic, make_handler, subscribe, expiry):
    topic, keys = make_topic()
    handler = make_handler()
    subscribe(topic.id, handler)
    for key in (keys.key1, keys.key2):
        token = generate_sas(topic.endpoint, key, expiry(datetime.now(timezone.utc)))
        with EventGridPublisherClient(topic.endpoint, AzureSasCredential(token)) as client:
            client.send(order(1))
    handler.wait(2)


def test_shared_access_signature_that_does_not_hold(make_topic, management):
    topic, keys = make_topic()
    other, other_keys = make_topic()
    now = datetime.now(timezone.utc)
    later = now + timedelta(minutes=5)
    before = generate_sas(topic.endpoint, keys.key1, later)
    management.topics.begin_regenerate_key("local", topic.name, {"keyName": "key1"}).result()
    for why, token in {
        "expired": generate_sas(topic.endpoint, keys.key2, now - timedelta(seconds=1)),
        "key of another topic": generate_sas(topic.endpoint, other_keys.key1, later),
        "address of another topic": generate_sas(other.endpoint, keys.key2, later),
        "key that was replaced": before,
        "moved expiry": before.replace("e=20", "e=30"),
    }.items():
        with EventGridPublisherClient(topic.endpoint, AzureSasCredential(token)) as client, pytest.raises(ClientAuthenticationError) as refusal:
            client.send(order(1))
        assert answer_of(refusal.value) == (401, "Unauthorized", "Unauthorized"), why
        assert token not in refusal.value.message
    with EventGridPublisherClient(topic.endpoint, AzureSasCredential("hunter2")) as client, pytest.raises(HttpResponseError) as refusal:
        client.send(order(1))
    assert answer_of(refusal.value) == (400, "BadRequest", "InvalidSas")


def test_networks(make_topic, management):
    topic, keys = make_topic()

    def update(**properties):
        management.topics.begin_update("local", topic.name, TopicUpdateParameters(**properties)).result()
        return management.topics.get("local", topic.name)

    def refused():
        with publisher(topic, keys.key1) as client, pytest.raises(HttpResponseError) as refusal:
            client.send(order(1))
        assert answer_of(refusal.value) == (403, "Forbidden", "Forbidden")

    shown = update(inbound_ip_rules=[InboundIpRule(ip_mask="10.0.0.0/8", action="Allow")])
    assert [(r.ip_mask, r.action) for r in shown.inbound_ip_rules] == [("10.0.0.0/8", "Allow")]
    refused()
    update(inbound_ip_rules=[InboundIpRule(ip_mask="10.0.0.0/8"), InboundIpRule(ip_mask="127.0.0.1")])
    with publisher(topic, keys.key1) as client:
        client.send(order(1))
    assert update(public_network_access="Disabled").public_network_access == "Disabled"
    refused()


@pytest.mark.parametrize("case, events", [
    ("an event over 1 MB", [EventGridEvent("s", "t", "x" * (1100 << 10), "1")]),
    ("a request over 1.5 MB", [EventGridEvent("s", "t", "x" * 100_000, "1") for _ in range(20)]),
    ("5,000 events of 1 KB", [EventGridEvent("s", "t", "x" * 1000, "1") for _ in range(5000)]),
    ("more than 5,000 events", [{"id": "i", "subject": "s", "eventType": "t", "data": 1, "dataVersion": "1", "eventTime": "2026-01-01T00:00:00Z"}] * 5001),
])
def test_too_large(make_topic, case, events):
    topic, keys = make_topic()
    with publisher(topic, keys.key1) as client, pytest.raises(HttpResponseError) as refusal:
        client.send(events)
    assert answer_of(refusal.value) == (413, "RequestEntityTooLarge", "PayloadTooLarge")


GOOD = {"id": "good", "subject": "s", "eventType": "t", "data": 1, "dataVersion": "1", "eventTime": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize("case, event, named", [
    ("no subject", {k: v for k, v in GOOD.items() if k != "subject"}, "subject"),
    ("no id", {k: v for k, v in GOOD.items() if k != "id"}, "id"),
    ("no event type", {k: v for k, v in GOOD.items() if k != "eventType"}, "eventType"),
    ("time that is none", {**GOOD, "eventTime": "yesterday"}, "eventTime"),
    ("number as subject", {**GOOD, "subject": 7}, "subject"),
    ("custom schema", {"number": 1}, "id"),
])
def test_bad_event_refuses_the_whole_request(make_topic, make_handler, subscribe, case, event, named):
    topic, keys = make_topic()
    handler = make_handler()
    subscribe(topic.id, handler)
    with publisher(topic, keys.key1) as client:
        with pytest.raises(HttpResponseError) as refusal:
            client.send([GOOD, event])
        assert answer_of(refusal.value) == (400, "BadRequest", "InputJsonInvalid")
        assert named in refusal.value.message
        client.send({**GOOD, "id": "after"})
    assert [e["id"] for e in handler.wait(1)] == ["after"]


def test_schema_of_the_topic(make_topic):
    grid, grid_keys = make_topic()
    cloud, cloud_keys = make_topic("CloudEventSchemaV1_0")
    with publisher(grid, grid_keys.key1) as client, pytest.raises(HttpResponseError) as refusal:
        client.send(CloudEvent(source="/shop", type="t", data=1))
    assert answer_of(refusal.value) == (400, "BadRequest", "InputJsonInvalid")
    with publisher(cloud, cloud_keys.key1) as client, pytest.raises(HttpResponseError) as refusal:
        client.send(order(1))
    assert answer_of(refusal.value) == (400, "BadRequest", "InputJsonInvalid")


def test_unknown_topic(server):
    client = EventGridPublisherClient(f"{server.url}/topics/nowhere/api/events", AzureKeyCredential("a2V5"))
    with client, pytest.raises(ResourceNotFoundError) as refusal:
        client.send(order(1))
    assert answer_of(refusal.value.__cause__) == (404, "NotFound", "ResourceNotFound")  # the SDK has a text of its own for people


def test_our_authority_and_no_other(make_topic, server, monkeypatch):
    topic, keys = make_topic()
    assert topic.endpoint.startswith("https://")
    with publisher(topic, keys.key1) as client:  # REQUESTS_CA_BUNDLE names our authority
        client.send(order(1))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with publisher(topic, keys.key1) as client:
        client.send(order(1), connection_verify=server.ca)
    with publisher(topic, keys.key1) as client, pytest.raises(ServiceRequestError, match="CERTIFICATE_VERIFY_FAILED"):
        client.send(order(1), retry_total=0)
