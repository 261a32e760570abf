"""Delivery attributes, set and read with the management SDK and seen by a handler.
Source: spec/delivery.md section 6."""

import json

import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from azure.eventgrid import EventGridEvent, EventGridPublisherClient
from azure.mgmt.eventgrid.models import (
    DynamicDeliveryAttributeMapping, EventSubscription, EventSubscriptionUpdateParameters, StaticDeliveryAttributeMapping,
    WebHookEventSubscriptionDestination)

SECRET = "Bearer s3cret"


def mappings():
    return [
        StaticDeliveryAttributeMapping(name="X-Team", value="mlops", is_secret=False),
        StaticDeliveryAttributeMapping(name="Authorization", value=SECRET, is_secret=True),
        DynamicDeliveryAttributeMapping(name="X-Stage", source_field="data.tags.stage"),
    ]


def test_delivery_attributes(management, make_topic, make_handler, unique):
    topic, keys = make_topic()
    handler, name = make_handler(), unique("es")
    operations = management.event_subscriptions
    to = WebHookEventSubscriptionDestination(endpoint_url=handler.url, delivery_attribute_mappings=mappings())
    made = operations.begin_create_or_update(topic.id, name, EventSubscription(destination=to)).result()
    for seen in (made, operations.get(topic.id, name), *operations.list_by_resource("local", "Microsoft.EventGrid", "topics", topic.name)):
        team, authorization, stage = seen.destination.delivery_attribute_mappings
        assert (team.name, team.type, team.value, team.is_secret) == ("X-Team", "Static", "mlops", False)
        assert (authorization.name, authorization.value, authorization.is_secret) == ("Authorization", None, True)
        assert (stage.type, stage.source_field) == ("Dynamic", "data.tags.stage")
        assert SECRET not in json.dumps(seen.serialize(keep_readonly=True))
    [_, authorization, _] = operations.get_delivery_attributes(topic.id, name).value
    assert authorization.value == SECRET
    [handshake] = handler.handshakes()
    assert (handshake.headers["x-team"], handshake.headers["authorization"]) == ("mlops", SECRET)
    assert "x-stage" not in handshake.headers

    with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(keys.key1)) as client:
        client.send([EventGridEvent(str(n), "T", {"tags": tags}, "1") for n, tags in enumerate([{"stage": "prod"}, {"stage": ["no", "text"]}])])
    handler.wait(2)
    by_subject = {d.events()[0]["subject"]: d.headers for d in handler.deliveries()}
    assert all((h["x-team"], h["authorization"]) == ("mlops", SECRET) for h in by_subject.values())
    assert by_subject["0"]["x-stage"] == "prod" and "x-stage" not in by_subject["1"]

    # What a GET gave goes back unchanged: the secret and the URL stay.
    read = operations.get(topic.id, name)
    updated = operations.begin_update(topic.id, name, EventSubscriptionUpdateParameters(destination=read.destination, labels=["a"])).result()
    assert updated.labels == ["a"] and len(handler.handshakes()) == 1
    assert operations.get_delivery_attributes(topic.id, name).value[1].value == SECRET
    operations.begin_delete(topic.id, name).result()


@pytest.mark.parametrize("mapping, says", [
    (StaticDeliveryAttributeMapping(name="aeg-x", value="s3cret"), "aeg-"),
    (StaticDeliveryAttributeMapping(name="Host", value="s3cret"), "Host"),
    (StaticDeliveryAttributeMapping(name="X-A", value="s3cret\r\nx: y"), "printable ASCII"),
    (DynamicDeliveryAttributeMapping(name="X-A"), "sourceField"),
])
def test_refused(management, make_topic, make_handler, unique, mapping, says):
    topic, _ = make_topic()
    handler = make_handler()
    to = WebHookEventSubscriptionDestination(endpoint_url=handler.url, delivery_attribute_mappings=[mapping])
    with pytest.raises(HttpResponseError) as refusal:
        management.event_subscriptions.begin_create_or_update(topic.id, unique("es"), EventSubscription(destination=to)).result()
    assert refusal.value.status_code == 400 and says in str(refusal.value) and "s3cret" not in str(refusal.value)
    assert handler.handshakes() == []
