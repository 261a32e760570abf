"""kill -9 between publish and delivery: what the SDK was told is accepted arrives
after the restart. Source: design.md decision 3, spec/delivery.md section 4.5."""

import time

import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridPublisherClient
from azure.mgmt.eventgrid.models import EventSubscription, Topic, WebHookEventSubscriptionDestination

from server import GROUP, WORKSPACE_ID, OwnServer


@pytest.fixture
def own_server(tmp_path):
    server = OwnServer(tmp_path)
    yield server
    server.close()


def set_up(server, subscriptions):
    """Makes topic orders with its event subscriptions; returns it and its keys."""
    with server.management() as management:
        topic = management.topics.begin_create_or_update(GROUP, "orders", Topic(location="local", input_schema="CloudEventSchemaV1_0")).result()
        for name, scope, handler in subscriptions:
            management.event_subscriptions.begin_create_or_update(scope or topic.id, name, EventSubscription(
                destination=WebHookEventSubscriptionDestination(endpoint_url=handler.url), event_delivery_schema="CloudEventSchemaV1_0")).result()
        return topic, management.topics.list_shared_access_keys(GROUP, "orders")


def orders(count: int) -> list:
    return [CloudEvent(source="/shop", type="Shop.OrderPlaced", data={"number": n}) for n in range(count)]


def test_accepted_events_survive_kill(own_server, make_handler):
    """One handler is down and one never answers when the server is killed."""
    down, hanging = make_handler(), make_handler("hang")
    topic, keys = set_up(own_server, [("down", None, down), ("hanging", None, hanging), ("models", WORKSPACE_ID, down)])
    down.close()

    sent = orders(20)
    with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(keys.key1)) as client:
        client.send(sent, connection_verify=own_server.ca)
    own_server.record("POST", "models/churn/versions", tags={"stage": "production"})
    hanging.wait_delivery()
    own_server.kill()
    assert down.deliveries() == []
    hanging.close()

    down_again, healed = make_handler(port=down.port), make_handler(port=hanging.port)
    own_server.start()
    want = {e.id: e.data for e in sent}
    everything = lambda events: want.keys() <= {e["id"] for e in events}  # noqa: E731
    healed.wait(everything, timeout=60)
    arrived = down_again.wait(lambda events: everything(events) and len(events) > len(sent), timeout=60)
    for handler in (healed, down_again):
        got = {e["id"]: e for e in handler.events()}
        assert {i: got[i]["data"] for i in want} == want
        assert len(got) == len(handler.events())  # none was settled before, so none may come twice now
    [model] = [e for e in arrived if e["type"] == "Microsoft.MachineLearningServices.ModelRegistered"]
    assert model["data"]["modelName"] == "churn" and model["data"]["modelTags"] == {"stage": "production"}

    with own_server.management() as management:
        again = management.topics.list_shared_access_keys(GROUP, "orders")
        assert (again.key1, again.key2) == (keys.key1, keys.key2)
        assert management.topics.get(GROUP, "orders").endpoint == topic.endpoint
    with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(keys.key1)) as client:
        client.send(CloudEvent(source="/shop", type="Shop.OrderPlaced", id="after", data=1), connection_verify=own_server.ca)
    healed.wait(lambda events: "after" in {e["id"] for e in events})
    assert own_server.stop() == 0


def test_failed_attempts_survive_kill(own_server, make_handler):
    """The next attempt after the restart is the second one, when it is due: 10
    seconds after the first, or spread over half a minute after the start."""
    handler = make_handler("fail")
    topic, keys = set_up(own_server, [("failing", None, handler)])
    sent = orders(3)
    with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(keys.key1)) as client:
        client.send(sent, connection_verify=own_server.ca)
    handler.wait(3)
    time.sleep(0.5)  # an outcome is settled 100 ms after the answer at the latest, and nothing tells from outside
    own_server.kill()
    before = handler.deliveries()
    assert [d.headers["aeg-delivery-count"] for d in before] == ["0"] * 3

    handler.behaviour = "consent"
    own_server.start()
    handler.wait(6, timeout=60)
    after = handler.deliveries()[3:]
    assert {d.events()[0]["id"] for d in after} == {e.id for e in sent}
    assert [d.headers["aeg-delivery-count"] for d in after] == ["1"] * 3
    assert own_server.stop() == 0


def test_second_process_on_the_same_directory(own_server, tmp_path):
    with pytest.raises(AssertionError, match="not that it is ready"):
        OwnServer(tmp_path)
    assert own_server.stop() == 0
