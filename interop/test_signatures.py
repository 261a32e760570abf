"""Signed deliveries, verified with the library of Standard Webhooks.
Source: spec/delivery.md section 9.6."""

import pytest
from azure.core.credentials import AzureKeyCredential
from azure.eventgrid import EventGridEvent, EventGridPublisherClient
from azure.mgmt.eventgrid.models import EventSubscription, WebHookEventSubscriptionDestination
from standardwebhooks import Webhook, WebhookVerificationError


def refuses(key, body, headers) -> bool:
    try:
        Webhook(key).verify(body, headers)
    except WebhookVerificationError:
        return True
    return False


@pytest.mark.parametrize("batch", [1, 10])
def test_signatures(server, management, make_topic, make_handler, unique, batch):
    topic, keys = make_topic()
    handler, name = make_handler(), unique("signed")
    of = ("--source-resource-id", topic.id)
    management.event_subscriptions.begin_create_or_update(topic.id, name, EventSubscription(
        destination=WebHookEventSubscriptionDestination(endpoint_url=handler.url, max_events_per_batch=batch))).result()
    signed = server.command("event-subscription", "update", "--name", name, *of, "--signing", "v1")
    first = signed["properties"]["destination"]["properties"]["signing"]["key"]

    def publish(*subjects):
        with EventGridPublisherClient(topic.endpoint, AzureKeyCredential(keys.key1)) as client:
            client.send([EventGridEvent(s, "T", {"text": "äöü €"}, "1") for s in subjects])

    publish("a", "b", "c")
    handler.wait(3)
    for d in handler.deliveries():
        assert [e["subject"] for e in Webhook(first).verify(d.body, d.headers)] == [e["subject"] for e in d.events()]
        assert refuses(first, d.body + b" ", d.headers)
        assert refuses(first, d.body, {**d.headers, "webhook-id": "another"})
        assert refuses("whsec_" + "A" * 32, d.body, d.headers)

    # While keys overlap both verify; afterwards the new one alone would.
    before = len(handler.deliveries())
    rotated = server.command("event-subscription", "signing-key", "rotate", "--name", name, *of)
    second = rotated["key"]
    assert second != first
    publish("d")
    handler.wait(4)
    for d in handler.deliveries()[before:]:
        for key in (first, second):
            Webhook(key).verify(d.body, d.headers)
    server.command("event-subscription", "delete", "--name", name, *of)
