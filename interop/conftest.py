"""What the suites share: the server that `interop/run` started, and topics,
handlers and event subscriptions that end with the test."""

import os
import uuid

import pytest
from azure.mgmt.eventgrid.models import EventSubscription, Topic, WebHookEventSubscriptionDestination

from handler import Handler
from server import GROUP, Server


@pytest.fixture(scope="session")
def server():
    return Server(os.environ["CARILLON_URL"], os.environ["CARILLON_TOKEN"], os.environ["CARILLON_CA"])


@pytest.fixture(scope="session")
def management(server):
    with server.management() as client:
        yield client


@pytest.fixture
def unique():
    """Names that no other test uses."""
    return lambda prefix: f"{prefix}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make_handler():
    handlers = []

    def make(*arguments, **named):
        handlers.append(Handler(*arguments, **named))
        return handlers[-1]

    yield make
    for handler in handlers:
        handler.close()


@pytest.fixture
def make_topic(management, unique):
    """Makes a topic; returns it with its two keys."""
    names = []

    def make(schema="EventGridSchema"):
        names.append(unique("orders"))
        topic = management.topics.begin_create_or_update(GROUP, names[-1], Topic(location="local", input_schema=schema)).result()
        keys = management.topics.list_shared_access_keys(GROUP, names[-1])
        return topic, keys

    yield make
    for name in names:
        management.topics.begin_delete(GROUP, name).result()


@pytest.fixture
def subscribe(management, unique):
    """Subscribes a handler to a source."""
    made = []

    def make(scope, handler, schema="EventGridSchema", **properties):
        name = unique("to-handler")
        result = management.event_subscriptions.begin_create_or_update(scope, name, EventSubscription(
            destination=WebHookEventSubscriptionDestination(endpoint_url=handler.url),
            event_delivery_schema=schema, **properties)).result()
        made.append((scope, name))
        return result

    yield make
    for scope, name in made:
        management.event_subscriptions.begin_delete(scope, name).result()
