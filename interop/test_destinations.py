"""Storage queues, Event Hubs, Kafka, NATS, MQTT and Azure Functions: what real servers get, read
with clients of their own and compared byte for byte with what a webhook gets.
Source: spec/handlers.md sections 3, 5, 8 and 14."""

import base64
import json
import time

import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, EventGridPublisherClient
from azure.mgmt.eventgrid.models import (
    AzureFunctionEventSubscriptionDestination, DynamicDeliveryAttributeMapping, EventHubEventSubscriptionDestination, EventSubscription,
    StaticDeliveryAttributeMapping, StorageQueueEventSubscriptionDestination, Topic, WebHookEventSubscriptionDestination)
from azure.storage.queue import QueueClient
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, from_structured_event

import kafka_broker
import mosquitto
import nats_broker
from azurite import Azurite
from server import GROUP, GROUP_ID, OwnServer

ACCOUNT = f"{GROUP_ID}/providers/Microsoft.Storage/storageAccounts/acct"
EVENT_HUBS = f"{GROUP_ID}/providers/Microsoft.EventHub/namespaces/ns"
APP = f"{GROUP_ID}/providers/Microsoft.Web/sites/app"
EVENTS = 100


def queue_of(account) -> QueueClient:
    return QueueClient.from_connection_string(account.connection, "ml-events", retry_total=0)


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    azurite = Azurite(tmp_path_factory.mktemp("azurite"), "queue")
    with queue_of(azurite) as queue:
        queue.create_queue()
    yield azurite
    azurite.close()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    broker = kafka_broker.Kafka(tmp_path_factory.mktemp("kafka"), "hub", "plain", "structured", "binary", "away")
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def nats(tmp_path_factory):
    broker = nats_broker.Nats(tmp_path_factory.mktemp("nats"))
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def mqtt(tmp_path_factory):
    broker = mosquitto.Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    server = OwnServer(tmp_path_factory.mktemp("server"))
    yield server
    assert server.stop() == 0
    server.close()


@pytest.fixture
def make(own_server, unique, make_handler):
    """Makes a topic with a webhook beside what is tried."""

    def make(schema="EventGridSchema"):
        with own_server.management() as management:
            made = management.topics.begin_create_or_update(GROUP, unique("orders"), Topic(location="local", input_schema=schema)).result()
            made.key = management.topics.list_shared_access_keys(GROUP, made.name).key1
        made.hook, made.schema = make_handler(), schema
        subscribe(own_server, made, "hook", WebHookEventSubscriptionDestination(endpoint_url=made.hook.url))
        return made

    return make


def publish(own_server, topic, first: int, count: int) -> None:
    if topic.schema == "EventGridSchema":
        events = [EventGridEvent(f"orders/{n % 3}", "Shop.OrderPlaced", {"number": n, "text": "<ä&>"}, "1.7", id=f"e{n}") for n in range(first, first + count)]
    else:
        events = [CloudEvent(source="/shop", type="Shop.OrderPlaced", subject=f"orders/{n % 3}", id=f"e{n}", data={"number": n, "text": "<ä&>"}) for n in range(first, first + count)]
    with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(topic.key)) as client:
        client.send(events, connection_verify=own_server.ca)


def subscribe(own_server, topic, name: str, destination):
    with own_server.management() as management:
        return management.event_subscriptions.begin_create_or_update(
            topic.id, name, EventSubscription(destination=destination, event_delivery_schema=topic.schema)).result()


def subscribe_ours(own_server, topic, name: str, kind: str, endpoint: str, *settings: str) -> None:
    own_server.command("event-subscription", "create", "--name", name, "--source-resource-id", topic.id, "--endpoint-type", kind, "--endpoint", endpoint,
                       "--event-delivery-schema", topic.schema, "--endpoint-setting", *settings)


def of_webhook(topic, count: int) -> list:
    """The events, as bytes, that the webhook beside got."""
    topic.hook.wait(count)
    return sorted(r.body.removeprefix(b"[").removesuffix(b"]") for r in topic.hook.deliveries())


def test_storage_queue(own_server, account, make):
    own_server.connect(ACCOUNT, account.connection)
    topic, wanted = make(), StorageQueueEventSubscriptionDestination(resource_id=ACCOUNT, queue_name="ml-events", queue_message_time_to_live_in_seconds=3600)
    assert subscribe(own_server, topic, "queue", wanted).destination == wanted
    publish(own_server, topic, 0, EVENTS)
    want, got = of_webhook(topic, EVENTS), []
    with queue_of(account) as queue:
        while len(got) < EVENTS:
            for message in queue.receive_messages(messages_per_page=32, visibility_timeout=600, timeout=10):
                got.append(base64.b64decode(message.content, validate=True))
                assert (message.expires_on - message.inserted_on).total_seconds() == 3600
    assert sorted(got) == want
    with pytest.raises(HttpResponseError, match="no queue nowhere") as refused:
        subscribe(own_server, topic, "nowhere", StorageQueueEventSubscriptionDestination(resource_id=ACCOUNT, queue_name="nowhere"))
    assert refused.value.status_code == 400


def test_event_hub(own_server, kafka, make):
    own_server.connect(EVENT_HUBS, f"BootstrapServers={kafka.address};Security=SaslPlaintext;Mechanism=PLAIN;Username={kafka_broker.USER};Password={kafka_broker.PASSWORD}")
    topic, wanted = make(), EventHubEventSubscriptionDestination(resource_id=f"{EVENT_HUBS}/eventhubs/hub", delivery_attribute_mappings=[
        DynamicDeliveryAttributeMapping(name="PartitionKey", source_field="subject"), StaticDeliveryAttributeMapping(name="X-Team", value="mlops", is_secret=False)])
    assert subscribe(own_server, topic, "hub", wanted).destination == wanted
    publish(own_server, topic, 0, EVENTS)
    want = of_webhook(topic, EVENTS)
    records = kafka.records("hub", lambda records: sum(len(json.loads(r.value)) for r in records) >= EVENTS)
    assert sorted(json.dumps(e) for r in records for e in json.loads(r.value)) == sorted(json.dumps(json.loads(e)) for e in want)
    partitions = {}
    for record in records:
        headers = dict(record.headers)
        assert {e["subject"].encode() for e in json.loads(record.value)} == {record.key}  # one key, one partition
        assert partitions.setdefault(record.key, record.partition) == record.partition
        assert headers["aeg-subscription-name"] == b"HUB" and headers["aeg-event-type"] == b"Notification" and headers["X-Team"] == b"mlops"
        assert "PartitionKey" not in headers
    with pytest.raises(HttpResponseError, match="it is not there") as refused:
        subscribe(own_server, topic, "nowhere", EventHubEventSubscriptionDestination(resource_id=f"{EVENT_HUBS}/eventhubs/nowhere"))
    assert refused.value.status_code == 400


@pytest.mark.parametrize("name, schema, settings", [
    ("plain", "EventGridSchema", ["mechanism=PLAIN", "key={subject}/{type}"]),
    ("structured", "CloudEventSchemaV1_0", ["mechanism=SCRAM-SHA-512"]),
    ("binary", "CloudEventSchemaV1_0", ["mechanism=SCRAM-SHA-512", "contentMode=binary"])])
def test_kafka(own_server, kafka, make, name, schema, settings):
    topic = make(schema)
    subscribe_ours(own_server, topic, name, "kafka", kafka.address, f"topic={name}", "security=SaslPlaintext", f"username={kafka_broker.USER}",
                   f"password={kafka_broker.PASSWORD}", *settings)
    publish(own_server, topic, 0, EVENTS)
    want = of_webhook(topic, EVENTS)
    records = kafka.records(name, EVENTS)
    assert len(records) == EVENTS
    if name != "binary":
        assert sorted(r.value for r in records) == want
    by_id = {json.loads(e)["id"]: json.loads(e) for e in want}
    for record in records:
        headers = dict(record.headers)
        assert headers["aeg-subscription-name"] == name.upper().encode() and headers["aeg-delivery-count"] == b"0"
        if name == "plain":
            assert headers["content-type"] == b"application/json; charset=utf-8"
            assert record.key.decode() == json.loads(record.value)["subject"] + "/Shop.OrderPlaced"
            continue
        read = from_structured_event if name == "structured" else from_binary_event
        event = read(KafkaMessage(headers=headers, key=record.key, value=record.value))
        sent = by_id[event.get_id()]
        assert (event.get_type(), event.get_source(), event.get_subject(), event.get_data()) == (sent["type"], sent["source"], sent["subject"], sent["data"])
        assert record.key.decode() == sent["subject"]


def test_a_kafka_broker_that_was_away_gets_everything(own_server, kafka, make):
    topic = make()
    subscribe_ours(own_server, topic, "away", "kafka", kafka.address, "topic=away", "security=SaslPlaintext", f"username={kafka_broker.USER}", f"password={kafka_broker.PASSWORD}")
    publish(own_server, topic, 0, 50)
    kafka.records("away", 50)
    kafka.stop()
    publish(own_server, topic, 50, 50)
    of_webhook(topic, EVENTS)
    kafka.start()
    records = kafka.records("away", lambda records: len({json.loads(r.value)["id"] for r in records}) >= EVENTS, timeout=90)
    assert {json.loads(r.value)["id"] for r in records} == {f"e{n}" for n in range(EVENTS)}


def test_what_kafka_refuses(own_server, kafka, make):
    topic = make()
    with pytest.raises(AssertionError, match="does not take the credentials|closed"):
        subscribe_ours(own_server, topic, "wrong", "kafka", kafka.address, "topic=plain", "security=SaslPlaintext", f"username={kafka_broker.USER}", "password=wrong")
    with pytest.raises(AssertionError, match="topic nowhere: it is not there"):
        subscribe_ours(own_server, topic, "nowhere", "kafka", kafka.address, "topic=nowhere", "security=SaslPlaintext", f"username={kafka_broker.USER}",
                       f"password={kafka_broker.PASSWORD}")


@pytest.mark.parametrize("schema, content_type", [
    ("EventGridSchema", "application/json; charset=utf-8"), ("CloudEventSchemaV1_0", "application/cloudevents+json; charset=utf-8")])
def test_nats(own_server, nats, make, schema, content_type):
    topic = make(schema)
    subscribe_ours(own_server, topic, "stream", "nats", nats.url, f"subject=ml.{topic.name}.{{type}}", f"username={nats_broker.USER}", f"password={nats_broker.PASSWORD}")
    publish(own_server, topic, 0, EVENTS)
    want, messages = of_webhook(topic, EVENTS), nats.messages(f"ml.{topic.name}.Shop_OrderPlaced", EVENTS)
    assert sorted(m.data for m in messages) == want
    assert len({m.headers["Nats-Msg-Id"] for m in messages}) == EVENTS
    for message in messages:
        assert message.headers["Content-Type"] == content_type
        assert message.headers["aeg-subscription-name"] == "STREAM" and message.headers["aeg-event-type"] == "Notification"
    with pytest.raises(AssertionError, match="no stream of .* has the subject"):
        subscribe_ours(own_server, topic, "nowhere", "nats", nats.url, "subject=other", f"username={nats_broker.USER}", f"password={nats_broker.PASSWORD}")


@pytest.mark.parametrize("schema, settings", [
    ("EventGridSchema", []), ("EventGridSchema", ["qos=2", "retain=true", "messageExpiry=600"]), ("CloudEventSchemaV1_0", ["qos=2"]), ("CloudEventSchemaV1_0", ["contentMode=binary"])])
def test_mqtt(own_server, mqtt, make, schema, settings):
    topic, retained = make(schema), "retain=true" in settings
    reader = mqtt.reader(f"ml/{topic.name}/#")
    subscribe_ours(own_server, topic, "broker", "mqtt", mqtt.url, f"topic=ml/{topic.name}/{{type}}/{{subject}}", f"username={mosquitto.USER}", f"password={mosquitto.PASSWORD}", *settings)
    publish(own_server, topic, 0, EVENTS)
    want, messages = of_webhook(topic, EVENTS), reader.messages(EVENTS)
    by_id = {json.loads(e)["id"]: json.loads(e) for e in want}
    if "contentMode=binary" not in settings:
        assert sorted(m.payload for m in messages) == want
    assert len({dict(m.properties.UserProperty)["message-id"] for m in messages}) == EVENTS
    for message in messages:
        user = dict(message.properties.UserProperty)
        assert user["aeg-subscription-name"] == "BROKER" and user["aeg-event-type"] == "Notification" and user["aeg-delivery-count"] == "0"
        assert message.qos == (2 if "qos=2" in settings else 1)
        assert (getattr(message.properties, "MessageExpiryInterval", None) or 0) in (range(540, 601) if retained else [0])
        if "contentMode=binary" in settings:
            sent = by_id[user["id"]]
            assert json.loads(message.payload) == sent["data"] and message.properties.ContentType == "application/json"
            assert {name: user[name] for name in ("specversion", "type", "source", "subject", "time")} == {name: sent[name] for name in ("specversion", "type", "source", "subject", "time")}
        else:
            sent = json.loads(message.payload)
            assert message.properties.ContentType == ("application/json; charset=utf-8" if schema == "EventGridSchema" else "application/cloudevents+json; charset=utf-8")
        assert message.topic == f"ml/{topic.name}/Shop.OrderPlaced/" + sent["subject"].replace("/", "_")
    if retained:  # the last of each topic, for whoever comes later
        assert len(mqtt.reader(f"ml/{topic.name}/Shop.OrderPlaced/+").messages(3)) == 3


def test_what_mosquitto_refuses(own_server, mqtt, make):
    topic = make()
    with pytest.raises(AssertionError, match="does not take the credentials|may not connect"):
        subscribe_ours(own_server, topic, "wrong", "mqtt", mqtt.url, "topic=ml/a", f"username={mosquitto.USER}", "password=wrong")
    for name, target, large, outcome in (("elsewhere", "other/a", "", "Unauthorized"), ("large", "ml/a", "x" * 100_000, "PayloadTooLarge")):
        subscribe_ours(own_server, topic, name, "mqtt", mqtt.url, f"topic={target}", f"username={mosquitto.USER}", f"password={mosquitto.PASSWORD}")
        with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(topic.key)) as client:
            client.send([EventGridEvent("orders/1", "Shop.OrderPlaced", {"text": large}, "1.7", id=name)], connection_verify=own_server.ca)
        for _ in range(60):
            attempts = own_server.command("event-subscription", "attempts", "--name", name, "--source-resource-id", topic.id, "--outcome", outcome)
            if attempts:
                break
            time.sleep(0.5)
        assert attempts, f"no attempt ended as {outcome}"


def test_function(own_server, make, make_handler):
    app = make_handler()
    own_server.connect(APP, f"Endpoint=http://127.0.0.1:{app.port};SystemKey=s3cret")
    topic, wanted = make(), AzureFunctionEventSubscriptionDestination(resource_id=f"{APP}/functions/train", max_events_per_batch=10, preferred_batch_size_in_kilobytes=64)
    assert subscribe(own_server, topic, "function", wanted).destination == wanted
    publish(own_server, topic, 0, EVENTS)
    app.wait(EVENTS)
    assert not app.handshakes()
    assert sorted(json.dumps(e) for e in app.events()) == sorted(json.dumps(json.loads(e)) for e in of_webhook(topic, EVENTS))
    for delivery in app.deliveries():
        assert delivery.path == "/runtime/webhooks/eventgrid?code=s3cret&functionName=train" and len(delivery.events()) <= 10
