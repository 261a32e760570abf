"""Domains: made by azure-mgmt-eventgrid, published to by azure-eventgrid with a key and
a shared access signature, and what the event subscriptions of a domain and of its
topics get. Source: spec/events.md section 8.7, spec/management.md sections 2.6 and 5.8."""

import json
import time
from datetime import datetime, timedelta, timezone

import pytest
from azure.core.credentials import AzureKeyCredential, AzureSasCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, EventGridPublisherClient, generate_sas
from azure.mgmt.eventgrid.models import (
    Domain, DomainRegenerateKeyRequest, DomainUpdateParameters, EventSubscription, JsonField, JsonFieldWithDefault, JsonInputSchemaMapping,
    WebHookEventSubscriptionDestination)

from server import GROUP


@pytest.fixture
def make_domain(management, unique):
    """Makes a domain; returns it with its two keys."""
    names = []

    def make(**properties):
        names.append(unique("shops"))
        domain = management.domains.begin_create_or_update(GROUP, names[-1], Domain(location="local", **properties)).result()
        return domain, management.domains.list_shared_access_keys(GROUP, names[-1])

    yield make
    for name in names:
        management.domains.begin_delete(GROUP, name).result()


def event(topic, event_id, subject="orders/7"):
    made = EventGridEvent(subject=subject, event_type="Shop.OrderPlaced", data={"amount": 12.5}, data_version="1.0", id=event_id)
    made.topic = topic
    return made


def hook(handler):
    return EventSubscription(destination=WebHookEventSubscriptionDestination(endpoint_url=handler.url))


def test_life_of_a_domain(management, make_domain):
    domain, keys = make_domain(tags={"team": "ml"})
    assert (domain.type, domain.input_schema, domain.provisioning_state) == ("Microsoft.EventGrid/domains", "EventGridSchema", "Succeeded")
    assert domain.auto_create_topic_with_first_subscription and domain.auto_delete_topic_with_last_subscription
    assert domain.endpoint.startswith("https://") and domain.endpoint.endswith(f"/domains/{domain.name}/api/events")
    changed = management.domains.begin_update(GROUP, domain.name, DomainUpdateParameters(
        tags={"team": "ops"}, auto_delete_topic_with_last_subscription=False)).result()
    shown = management.domains.get(GROUP, domain.name)
    assert shown.tags == {"team": "ops"} and not shown.auto_delete_topic_with_last_subscription and shown.auto_create_topic_with_first_subscription
    assert changed is None or changed.tags == shown.tags
    assert domain.name in [d.name for d in management.domains.list_by_subscription()]
    assert domain.name in [d.name for d in management.domains.list_by_resource_group(GROUP, filter=f"name eq '{domain.name}'")]
    replaced = management.domains.regenerate_key(GROUP, domain.name, DomainRegenerateKeyRequest(key_name="key1"))
    assert replaced.key1 != keys.key1 and replaced.key2 == keys.key2


def test_life_of_a_domain_topic(management, make_domain, make_handler):
    domain, _ = make_domain(auto_create_topic_with_first_subscription=False, auto_delete_topic_with_last_subscription=False)
    handler = make_handler()
    with pytest.raises(HttpResponseError) as refusal:
        management.domain_topic_event_subscriptions.begin_create_or_update(GROUP, domain.name, "tenant-a", "own", hook(handler)).result()
    assert refusal.value.status_code == 404 and "autoCreateTopicWithFirstSubscription" in refusal.value.message
    topic = management.domain_topics.begin_create_or_update(GROUP, domain.name, "tenant-a").result()
    assert (topic.type, topic.provisioning_state) == ("Microsoft.EventGrid/domains/topics", "Succeeded")
    management.domain_topic_event_subscriptions.begin_create_or_update(GROUP, domain.name, "tenant-a", "own", hook(handler)).result()
    management.domain_topic_event_subscriptions.begin_delete(GROUP, domain.name, "tenant-a", "own").result()
    assert management.domain_topics.get(GROUP, domain.name, "TENANT-A").id == topic.id
    management.domain_topics.begin_delete(GROUP, domain.name, "tenant-a").result()
    with pytest.raises(ResourceNotFoundError):
        management.domain_topics.get(GROUP, domain.name, "tenant-a")


def test_many_topics_are_listed(management, make_domain):
    domain, _ = make_domain()
    names = [f"tenant-{n:03}" for n in range(130)]
    for name in names:
        management.domain_topics.begin_create_or_update(GROUP, domain.name, name).result()
    assert [t.name for t in management.domain_topics.list_by_domain(GROUP, domain.name)] == names
    assert [t.name for t in management.domain_topics.list_by_domain(GROUP, domain.name, filter="contains(name,'12')", top=2)] == [
        n for n in names if "12" in n]


def test_deliveries(management, make_domain, make_handler, subscribe):
    domain, keys = make_domain()
    everything, of_a, of_b = make_handler(), make_handler(), make_handler()
    subscribe(domain.id, everything)
    management.domain_topic_event_subscriptions.begin_create_or_update(GROUP, domain.name, "tenant-a", "own", hook(of_a)).result()
    subscribe(domain.id + "/topics/tenant-b", of_b, "CloudEventSchemaV1_0")
    assert [t.name for t in management.domain_topics.list_by_domain(GROUP, domain.name)] == ["tenant-a", "tenant-b"]

    signed = generate_sas(domain.endpoint, keys.key2, datetime.now(timezone.utc) + timedelta(hours=1))
    for credential, number in ((AzureKeyCredential(keys.key1), 1), (AzureSasCredential(signed), 2)):
        with EventGridPublisherClient(domain.endpoint, credential) as client:
            client.send([event("tenant-a", f"a{number}"), event("tenant-b", f"b{number}"), event("nobodys", f"n{number}")])
    everything.wait(6)
    assert {e["id"]: e["topic"] for e in everything.events()} == {
        f"{letter}{number}": f"{domain.id}/topics/{name}" for letter, name in (("a", "tenant-a"), ("b", "tenant-b"), ("n", "nobodys")) for number in (1, 2)}
    of_a.wait(2)
    assert {e["id"] for e in of_a.events()} == {"a1", "a2"}
    of_b.wait(2)
    got = [CloudEvent.from_json(json.dumps(e)) for e in of_b.events()]
    assert {e.id for e in got} == {"b1", "b2"} and {e.source for e in got} == {domain.id + "/topics/tenant-b"}

    listed = {e.name for e in management.domain_topic_event_subscriptions.list(GROUP, domain.name, "tenant-a")}
    assert listed == {"own"} == {e.name for e in management.event_subscriptions.list_by_domain_topic(GROUP, domain.name, "tenant-a")}
    assert len(list(management.domain_event_subscriptions.list(GROUP, domain.name))) == 1
    full = management.domain_topic_event_subscriptions.get_full_url(GROUP, domain.name, "tenant-a", "own")
    assert full.endpoint_url == of_a.url
    management.domain_topic_event_subscriptions.begin_delete(GROUP, domain.name, "tenant-a", "own").result()
    assert [t.name for t in management.domain_topics.list_by_domain(GROUP, domain.name)] == ["tenant-b"]


def test_all_or_nothing(make_domain, make_handler, subscribe):
    domain, keys = make_domain()
    handler = make_handler()
    subscribe(domain.id, handler)
    with EventGridPublisherClient(domain.endpoint, AzureKeyCredential(keys.key1)) as client:
        for wrong in (None, "no name", "/subscriptions/x/topics/y"):
            with pytest.raises(HttpResponseError) as refusal:
                client.send([event("tenant-a", "good"), event(wrong, "bad")])
            assert refusal.value.status_code == 400 and "'topic'" in str(refusal.value)
        client.send(event("tenant-a", "last"))
    handler.wait(1)
    time.sleep(0.3)
    assert [e["id"] for e in handler.events()] == ["last"]


def test_cloud_events(make_domain, make_handler, subscribe):
    domain, keys = make_domain(input_schema="CloudEventSchemaV1_0")
    everything, of_a = make_handler(), make_handler()
    subscribe(domain.id, everything, "CloudEventSchemaV1_0")
    subscribe(domain.id + "/topics/tenant-a", of_a, "CloudEventSchemaV1_0")
    with EventGridPublisherClient(domain.endpoint, AzureKeyCredential(keys.key1)) as client:
        client.send([CloudEvent(source=source, type="Shop.OrderPlaced", data={"n": 1}, id=source) for source in ("tenant-a", "tenant-b")])
        with pytest.raises(HttpResponseError) as refusal:
            client.send(CloudEvent(source="/shops/7", type="Shop.OrderPlaced"))
    assert refusal.value.status_code == 400
    everything.wait(2)
    assert {(e["id"], e["source"]) for e in everything.events()} == {("tenant-a", "tenant-a"), ("tenant-b", "tenant-b")}
    of_a.wait(1)
    assert [e["id"] for e in of_a.events()] == ["tenant-a"]


def test_custom_input(make_domain, make_handler, subscribe):
    domain, keys = make_domain(input_schema="CustomEventSchema", input_schema_mapping=JsonInputSchemaMapping(
        topic=JsonField(source_field="tenant"), event_type=JsonFieldWithDefault(source_field="kind"), subject=JsonFieldWithDefault(default_value="none")))
    raw, mapped = make_handler(), make_handler()
    subscribe(domain.id + "/topics/tenant-a", raw, "CustomInputSchema")
    subscribe(domain.id, mapped, "EventGridSchema")
    orders = [{"tenant": name, "kind": "Shop.OrderPlaced", "total": 12.5} for name in ("tenant-a", "tenant-b")]
    with EventGridPublisherClient(domain.endpoint, AzureKeyCredential(keys.key1)) as client:
        client.send(orders)
    assert raw.wait(1) == orders[:1]
    mapped.wait(2)
    assert {e["topic"]: e["data"] for e in mapped.events()} == {f"{domain.id}/topics/{o['tenant']}": o for o in orders}
