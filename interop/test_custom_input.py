"""Custom input: a topic with a mapping made by azure-mgmt-eventgrid, dictionaries
published by azure-eventgrid, and what handlers get of them in each delivery schema.
Source: spec/events.md section 3, spec/delivery.md section 2.3."""

import json

import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, EventGridPublisherClient
from azure.mgmt.eventgrid.models import (
    EventSubscriptionFilter, JsonField, JsonFieldWithDefault, JsonInputSchemaMapping, NumberGreaterThanAdvancedFilter, Topic)

from server import GROUP

MAPPING = JsonInputSchemaMapping(
    id=JsonField(source_field="trackingId"), event_time=JsonField(source_field="at"), topic=JsonField(source_field="origin"),
    event_type=JsonFieldWithDefault(source_field="kind", default_value="Shop.Unknown"),
    subject=JsonFieldWithDefault(source_field="path"), data_version=JsonFieldWithDefault(default_value="1.0"))


@pytest.fixture
def topic(management, unique):
    """A topic of custom input."""
    name = unique("shop")
    yield management.topics.begin_create_or_update(
        GROUP, name, Topic(location="local", input_schema="CustomEventSchema", input_schema_mapping=MAPPING)).result()
    management.topics.begin_delete(GROUP, name).result()


@pytest.fixture
def client(management, topic):
    key = management.topics.list_shared_access_keys(GROUP, topic.name).key1
    with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(key)) as made:
        yield made


def test_topic(management, topic):
    for shown in (topic, management.topics.get(GROUP, topic.name)):
        assert shown.input_schema == "CustomEventSchema"
        assert isinstance(shown.input_schema_mapping, JsonInputSchemaMapping)
        assert shown.input_schema_mapping.as_dict() == MAPPING.as_dict()
    again = management.topics.begin_create_or_update(
        GROUP, topic.name, Topic(location="local", input_schema="CustomEventSchema", input_schema_mapping=MAPPING, tags={"a": "b"})).result()
    assert again.tags == {"a": "b"}


@pytest.mark.parametrize("schema, mapping, target", [
    ("CustomEventSchema", None, "properties.inputSchemaMapping"),
    ("EventGridSchema", MAPPING, "properties.inputSchemaMapping"),
    ("CustomEventSchema", JsonInputSchemaMapping(subject=JsonFieldWithDefault(default_value="x")), "properties.inputSchemaMapping.properties.eventType"),
])
def test_refused_topics(management, unique, schema, mapping, target):
    with pytest.raises(HttpResponseError) as refusal:
        management.topics.begin_create_or_update(GROUP, unique("shop"), Topic(location="local", input_schema=schema, input_schema_mapping=mapping))
    assert (refusal.value.status_code, refusal.value.error.target) == (400, target)


def test_mapping_is_fixed(management, topic):
    other = JsonInputSchemaMapping(event_type=JsonFieldWithDefault(source_field="type"), subject=JsonFieldWithDefault(source_field="path"))
    with pytest.raises(HttpResponseError) as refusal:
        management.topics.begin_create_or_update(GROUP, topic.name, Topic(location="local", input_schema="CustomEventSchema", input_schema_mapping=other))
    assert (refusal.value.status_code, refusal.value.error.target) == (400, "properties.inputSchemaMapping")


def test_deliveries(topic, client, make_handler, subscribe):
    raw, mapped, cloud, large = (make_handler() for _ in range(4))
    assert subscribe(topic.id, raw, "CustomInputSchema").event_delivery_schema == "CustomInputSchema"
    subscribe(topic.id, mapped, "EventGridSchema", filter=EventSubscriptionFilter(subject_begins_with="orders/"))
    subscribe(topic.id, cloud, "CloudEventSchemaV1_0", filter=EventSubscriptionFilter(included_event_types=["Shop.OrderPlaced"]))
    subscribe(topic.id, large, "CustomInputSchema", filter=EventSubscriptionFilter(
        advanced_filters=[NumberGreaterThanAdvancedFilter(key="total", value=100)]))
    order = {"trackingId": "o-7", "at": "2026-03-01T10:00:00Z", "kind": "Shop.OrderPlaced", "path": "orders/7", "total": 12.5, "name": "Zoë ☂"}
    refund = {"trackingId": 8, "path": "orders/8", "total": 120, "origin": "elsewhere"}
    stock = {"kind": "Shop.StockLow", "path": "items/3"}
    client.send([order, refund])
    client.send(stock)

    def by_path(events):
        return sorted(events, key=lambda e: e["path"])

    assert by_path(raw.wait(3)) == [stock, order, refund]
    assert large.wait(1) == [refund]
    mapped.wait(2)
    got = {e.id: e for e in (EventGridEvent.from_json(json.dumps(e)) for e in mapped.events())}
    assert set(got) == {"o-7", "8"}
    assert (got["o-7"].event_type, got["o-7"].subject, got["o-7"].data, got["o-7"].data_version) == ("Shop.OrderPlaced", "orders/7", order, "1.0")
    assert (got["8"].event_type, got["8"].data, got["8"].topic) == ("Shop.Unknown", refund, topic.id)
    cloud.wait(1)
    [delivery] = cloud.deliveries()
    event = CloudEvent.from_json(delivery.body)
    assert (event.id, event.type, event.source, event.subject, event.data) == ("o-7", "Shop.OrderPlaced", topic.id, "orders/7", order)
    for handler in (raw, large):
        for delivery in handler.deliveries():
            assert isinstance(json.loads(delivery.body), list)  # an array of one
            assert delivery.headers["content-type"] == "application/json; charset=utf-8"
            assert delivery.headers["aeg-data-version"] == "1.0" and delivery.headers["aeg-metadata-version"] == "1"
    assert [h.headers["aeg-event-type"] for h in raw.handshakes()] == ["SubscriptionValidation"]  # the same handshake as for EventGridSchema


def test_refused_objects(client, topic, make_handler, subscribe):
    handler = make_handler()
    subscribe(topic.id, handler, "CustomInputSchema")
    for events, said in [([{"path": "a"}, {"kind": "no path"}], "Event 1: property 'path'"), ([{"path": {}}], "StartObject"), ([{"path": "a", "at": "today"}], "date-time")]:
        with pytest.raises(HttpResponseError) as refusal:
            client.send(events)
        body = json.loads(refusal.value.response.text())["error"]
        assert (refusal.value.status_code, body["code"], body["details"][0]["code"]) == (400, "BadRequest", "InputJsonInvalid")
        assert said in body["message"] and "CustomInputEvent" in body["message"]
    client.send([{"path": "the last"}])
    assert handler.wait(1) == [{"path": "the last"}]  # nothing of a refused request arrives


@pytest.mark.parametrize("schema", ["EventGridSchema", "CloudEventSchemaV1_0"])
def test_raw_form_needs_custom_input(make_topic, make_handler, subscribe, schema):
    other, _ = make_topic(schema)
    handler = make_handler()
    with pytest.raises(HttpResponseError) as refusal:
        subscribe(other.id, handler, "CustomInputSchema")
    assert (refusal.value.status_code, refusal.value.error.target) == (400, "properties.eventDeliverySchema")
    assert handler.handshakes() == []
