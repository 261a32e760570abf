"""Service Bus, Event Hubs and AMQP 1.0: what real brokers, ActiveMQ Artemis and RabbitMQ,
get, read with rhea and compared byte for byte with what a webhook gets.
Source: spec/handlers.md sections 5 and 7."""

import json

import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from azure.eventgrid import EventGridEvent, EventGridPublisherClient
from azure.mgmt.eventgrid.models import (
    DynamicDeliveryAttributeMapping, EventHubEventSubscriptionDestination, EventSubscription, ServiceBusQueueEventSubscriptionDestination,
    ServiceBusTopicEventSubscriptionDestination, StaticDeliveryAttributeMapping, Topic, WebHookEventSubscriptionDestination)

from artemis import Artemis
from rabbitmq import RabbitMQ
from server import GROUP, GROUP_ID, OwnServer

SERVICE_BUS = f"{GROUP_ID}/providers/Microsoft.ServiceBus/namespaces/ns"
EVENT_HUBS = f"{GROUP_ID}/providers/Microsoft.EventHub/namespaces/ns"
EVENTS = 200


# Artemis makes queues and topics for whoever asks for them; those of RabbitMQ are there.
@pytest.fixture(scope="module", params=[(Artemis, []), (RabbitMQ, ["q1", "h1"])], ids=["Artemis", "RabbitMQ"])
def broker(request, tmp_path_factory):
    kind, queues = request.param
    started = kind(tmp_path_factory.mktemp("broker"), "direct", "away", *queues)
    yield started
    started.close()


@pytest.fixture(scope="module")
def own_server(broker, tmp_path_factory):
    server = OwnServer(tmp_path_factory.mktemp("server"))
    text = f"Endpoint={broker.url};Username={broker.user};Password={broker.password};Address="
    for namespace in (SERVICE_BUS, EVENT_HUBS):
        server.connect(namespace, text + broker.queue("{name}"))
    server.connect(f"{SERVICE_BUS}/topics/t1", text + broker.topic("{name}").removeprefix("topic://"))
    yield server
    assert server.stop() == 0
    server.close()


@pytest.fixture
def topic(own_server, unique):
    with own_server.management() as management:
        made = management.topics.begin_create_or_update(GROUP, unique("orders"), Topic(location="local")).result()
        made.key = management.topics.list_shared_access_keys(GROUP, made.name).key1
        return made


def publish(own_server, topic, first: int, count: int) -> None:
    with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(topic.key)) as client:
        client.send([EventGridEvent(f"orders/{n}", "Shop.OrderPlaced", {"number": n, "text": "<ä&>"}, "1.7", id=f"e{n}") for n in range(first, first + count)],
                    connection_verify=own_server.ca)


def subscribe(own_server, topic, name: str, destination, **properties) -> None:
    with own_server.management() as management:
        management.event_subscriptions.begin_create_or_update(topic.id, name, EventSubscription(destination=destination, **properties)).result()


def test_each_kind_gets_what_a_webhook_gets(own_server, broker, topic, make_handler):
    hook = make_handler()
    subscribe(own_server, topic, "hook", WebHookEventSubscriptionDestination(endpoint_url=hook.url))
    mappings = [DynamicDeliveryAttributeMapping(name="SessionId", source_field="subject"), StaticDeliveryAttributeMapping(name="Label", value="order"),
                StaticDeliveryAttributeMapping(name="X-Team", value="s3cret", is_secret=True)]
    subscribe(own_server, topic, "queue", ServiceBusQueueEventSubscriptionDestination(resource_id=f"{SERVICE_BUS}/queues/q1", delivery_attribute_mappings=mappings))
    readers = {"topic": broker.reader(broker.topic("t1"), EVENTS)}  # a topic keeps nothing for whoever comes later
    subscribe(own_server, topic, "topic", ServiceBusTopicEventSubscriptionDestination(resource_id=f"{SERVICE_BUS}/topics/t1"))
    own_server.command("event-subscription", "create", "--name", "direct", "--source-resource-id", topic.id, "--endpoint-type", "amqp", "--endpoint", broker.url,
                       "--endpoint-setting", f"address={broker.queue('direct')}", f"username={broker.user}", f"password={broker.password}")
    subscribe(own_server, topic, "hub", EventHubEventSubscriptionDestination(resource_id=f"{EVENT_HUBS}/eventhubs/h1"))
    for first in range(0, EVENTS, 50):
        publish(own_server, topic, first, 50)
    hook.wait(EVENTS)
    want = sorted(r.body.removeprefix(b"[").removesuffix(b"]") for r in hook.deliveries())
    for name, address in (("queue", "q1"), ("direct", "direct")):
        readers[name] = broker.reader(broker.queue(address), EVENTS)
    for name, reader in readers.items():
        got = reader.messages()
        assert sorted(m["body"] for m in got) == want, name
        assert len({m["id"] for m in got}) == EVENTS
        for m in got:
            assert m["durable"] and m["contentType"] == "application/json; charset=utf-8"
            assert m["properties"]["aeg-event-type"] == "Notification" and m["properties"]["aeg-subscription-name"] == name.upper()
            assert m["properties"]["aeg-data-version"] == "1.7" and m["properties"]["aeg-delivery-count"] == "0"
            if name == "queue":
                assert m["group"] == json.loads(m["body"])["subject"] and m["subject"] == "order" and m["properties"]["X-Team"] == "s3cret"
    events = []
    while len(events) < EVENTS:
        [array] = broker.reader(broker.queue("h1"), 1).messages()
        events += json.loads(array["body"])
    assert sorted(json.dumps(e) for e in events) == sorted(json.dumps(e) for e in hook.events())


def test_a_broker_that_is_killed_gets_everything(own_server, broker, topic):
    own_server.command("event-subscription", "create", "--name", "away", "--source-resource-id", topic.id, "--endpoint-type", "amqp", "--endpoint", broker.url,
                       "--endpoint-setting", f"address={broker.queue('away')}", f"username={broker.user}", f"password={broker.password}")
    total, batch, missing = 3000, 50, {f"e{n}" for n in range(3000)}
    for first in range(0, total, batch):
        publish(own_server, topic, first, batch)
        if first == total // 3:
            broker.kill()
        if first == 2 * total // 3:
            broker.start()
    while missing:  # what was under way may be there twice
        missing -= {json.loads(m["body"])["id"] for m in broker.reader(broker.queue("away"), len(missing)).messages(90)}


def test_what_is_refused(own_server, broker, topic):
    with pytest.raises(HttpResponseError) as wrong:
        subscribe(own_server, topic, "both", ServiceBusQueueEventSubscriptionDestination(resource_id=f"{SERVICE_BUS}/queues/q1", delivery_attribute_mappings=[
            DynamicDeliveryAttributeMapping(name="SessionId", source_field="subject"), DynamicDeliveryAttributeMapping(name="MessageId", source_field="id")]))
    assert wrong.value.status_code == 400 and "SessionId and MessageId" in wrong.value.message
    with pytest.raises(HttpResponseError) as wrong:
        subscribe(own_server, topic, "nowhere", ServiceBusQueueEventSubscriptionDestination(resource_id=f"{GROUP_ID}/providers/Microsoft.ServiceBus/namespaces/other/queues/q1"))
    assert wrong.value.status_code == 400 and "carillon connection create" in wrong.value.message
