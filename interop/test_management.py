"""Managing topics, system topics and event subscriptions with azure-mgmt-eventgrid.
Source: spec/management.md sections 2 to 7."""

import io
import json
from datetime import datetime, timedelta, timezone

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.eventgrid.models import (
    EventSubscription, EventSubscriptionFilter, EventSubscriptionUpdateParameters, NumberGreaterThanAdvancedFilter, RetryPolicy,
    StringInAdvancedFilter, Topic, TopicUpdateParameters, WebHookEventSubscriptionDestination)

from server import GROUP, GROUP_ID, TOPIC_TYPE, WORKSPACE, WORKSPACE_ID, topic_id

FIVE = {f"Microsoft.MachineLearningServices.{name}" for name in (
    "ModelRegistered", "ModelDeployed", "RunCompleted", "RunStatusChanged", "DatasetDriftDetected")}


def to(handler, **properties) -> EventSubscription:
    return EventSubscription(destination=WebHookEventSubscriptionDestination(endpoint_url=handler.url), **properties)


def test_topic(management, unique):
    name = unique("orders")
    with pytest.raises(ResourceNotFoundError) as missing:
        management.topics.get(GROUP, name)
    assert missing.value.error.code == "ResourceNotFound"

    made = management.topics.begin_create_or_update(GROUP, name, Topic(location="local", tags={"team": "growth"})).result()
    assert (made.id, made.name, made.type) == (topic_id(name), name, "Microsoft.EventGrid/topics")
    assert (made.location, made.tags, made.input_schema, made.provisioning_state) == ("local", {"team": "growth"}, "EventGridSchema", "Succeeded")
    assert made.endpoint.startswith("https://") and made.endpoint.endswith("/api/events") and made.metric_resource_id
    keys = management.topics.list_shared_access_keys(GROUP, name)
    assert len(keys.key1) == len(keys.key2) == 44 and keys.key1 != keys.key2

    again = management.topics.begin_create_or_update(GROUP, name, Topic(location="local", tags={"team": "crm"})).result()
    assert (again.id, again.tags, again.endpoint, again.metric_resource_id) == (made.id, {"team": "crm"}, made.endpoint, made.metric_resource_id)
    kept = management.topics.list_shared_access_keys(GROUP, name)
    assert (kept.key1, kept.key2) == (keys.key1, keys.key2)

    management.topics.begin_update(GROUP, name, TopicUpdateParameters(tags={"stage": "test"})).result()
    got = management.topics.get(GROUP, name.upper())  # names are compared without case
    assert got.tags == {"stage": "test"} and got.name == name

    with pytest.raises(HttpResponseError) as refusal:
        management.topics.begin_create_or_update(GROUP, name, Topic(location="local", input_schema="CloudEventSchemaV1_0"))
    assert refusal.value.status_code == 400

    management.topics.begin_delete(GROUP, name).result()
    management.topics.begin_delete(GROUP, name).result()  # a missing one is no error
    with pytest.raises(ResourceNotFoundError):
        management.topics.get(GROUP, name)


@pytest.mark.parametrize("which", ["key1", "key2"])
def test_regenerate_key(management, make_topic, which):
    topic, before = make_topic()
    answered = management.topics.begin_regenerate_key(GROUP, topic.name, {"keyName": which}).result()
    after = management.topics.list_shared_access_keys(GROUP, topic.name)
    assert (answered.key1, answered.key2) == (after.key1, after.key2)
    assert (after.key1 != before.key1, after.key2 != before.key2) == (which == "key1", which == "key2")


def test_topic_lists_follow_pages(management, make_topic):
    names = {make_topic()[0].name for _ in range(5)}
    assert names <= {t.name for t in management.topics.list_by_resource_group(GROUP)}
    assert names <= {t.name for t in management.topics.list_by_subscription()}
    pages = [[t.name for t in page] for page in management.topics.list_by_resource_group(GROUP, top=2).by_page()]
    assert all(0 < len(page) <= 2 for page in pages)
    assert names <= {name for page in pages for name in page}
    one = sorted(names)[0]
    assert [t.name for t in management.topics.list_by_resource_group(GROUP, filter=f"name eq '{one}'")] == [one]
    assert one in {t.name for t in management.topics.list_by_subscription(filter=f"contains(name, '{one[-8:]}')")}


@pytest.mark.parametrize("case, name, topic, code", [
    ("name too short", "ab", Topic(location="local"), "InvalidResourceName"),
    ("name with a dot", "a.b.c", Topic(location="local"), "InvalidResourceName"),
    ("no location", "orders-nowhere", Topic(location=""), "LocationRequired"),
    ("unknown schema", "orders-schema", Topic(location="local", input_schema="Avro"), "InvalidRequest"),
])
def test_bad_topic(management, case, name, topic, code):
    with pytest.raises(HttpResponseError) as refusal:
        management.topics.begin_create_or_update(GROUP, name, topic)
    assert (refusal.value.status_code, refusal.value.error.code) == (400, code)
    assert refusal.value.error.message


@pytest.mark.parametrize("version", ["2018-01-01", "2021-10-15-preview", "2022-06-15", "2025-02-15", "2031-12-31"])
def test_every_api_version(server, make_topic, version):
    topic, _ = make_topic()
    with server.management(api_version=version) as client:
        got = client.topics.get(GROUP, topic.name)
        assert (got.id, got.endpoint, got.input_schema) == (topic.id, topic.endpoint, "EventGridSchema")
        assert client.topics.begin_create_or_update(GROUP, topic.name, Topic(location="local")).result().provisioning_state == "Succeeded"


def test_malformed_api_version(server):
    with server.management(api_version="latest") as client, pytest.raises(HttpResponseError) as refusal:
        list(client.topics.list_by_resource_group(GROUP))
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "InvalidApiVersionParameter")


def test_slashes_and_case_count_for_nothing(server, make_topic, make_handler, unique):
    """A base_url that ends in a slash, and ids in another case than the resource's."""
    topic, _ = make_topic()
    handler, name = make_handler(), unique("es")
    with server.management(base_url=server.url + "/") as client:
        made = client.event_subscriptions.begin_create_or_update(topic.id.lower() + "/", name, to(handler)).result()
        assert made.provisioning_state == "Succeeded" and made.name == name
        assert client.event_subscriptions.get(topic.id.upper(), name.upper()).name == name
        client.event_subscriptions.begin_delete(topic.id, name).result()


@pytest.mark.parametrize("source", ["topic", "workspace"])
def test_event_subscription(management, make_topic, make_handler, unique, source):
    operations = management.event_subscriptions
    topic, _ = make_topic()
    scope = topic.id if source == "topic" else WORKSPACE_ID
    provider, kind, resource = scope.split("/")[-3:]
    name, handler = unique("es"), make_handler()
    with pytest.raises(ResourceNotFoundError):
        operations.get(scope, name)

    until = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=1)
    made = operations.begin_create_or_update(scope, name, to(
        handler, labels=["one", "two"], expiration_time_utc=until,
        filter=EventSubscriptionFilter(
            subject_begins_with="models/", subject_ends_with=":1", included_event_types=["Microsoft.MachineLearningServices.ModelRegistered"],
            advanced_filters=[StringInAdvancedFilter(key="data.modelTags.stage", values=["production"])]),
        retry_policy=RetryPolicy(max_delivery_attempts=5, event_time_to_live_in_minutes=60))).result()
    assert (made.name, made.provisioning_state, made.type) == (name, "Succeeded", "Microsoft.EventGrid/eventSubscriptions")
    assert made.id.lower() == f"{scope}/providers/Microsoft.EventGrid/eventSubscriptions/{name}".lower()
    assert made.topic.lower() == scope.lower()
    [handshake] = handler.handshakes()
    assert handshake.path == "/hook?code=s3cret" and handshake.headers["aeg-subscription-name"] == name.upper()

    got = operations.get(scope, name)
    assert (got.labels, got.expiration_time_utc, got.event_delivery_schema) == (["one", "two"], until, "EventGridSchema")
    assert (got.retry_policy.max_delivery_attempts, got.retry_policy.event_time_to_live_in_minutes) == (5, 60)
    assert (got.filter.subject_begins_with, got.filter.subject_ends_with) == ("models/", ":1")
    [condition] = got.filter.advanced_filters
    assert isinstance(condition, StringInAdvancedFilter) and (condition.key, condition.values) == ("data.modelTags.stage", ["production"])
    assert isinstance(got.destination, WebHookEventSubscriptionDestination)
    assert got.destination.endpoint_url is None and got.destination.endpoint_base_url == handler.base_url
    assert (got.destination.max_events_per_batch, got.destination.preferred_batch_size_in_kilobytes) == (1, 64)
    assert operations.get_full_url(scope, name).endpoint_url == handler.url

    updated = operations.begin_update(scope, name, EventSubscriptionUpdateParameters(
        labels=["three"], filter=EventSubscriptionFilter(advanced_filters=[NumberGreaterThanAdvancedFilter(key="data.n", value=5)]))).result()
    assert updated.labels == ["three"] and not updated.filter.subject_begins_with
    [condition] = updated.filter.advanced_filters
    assert isinstance(condition, NumberGreaterThanAdvancedFilter) and condition.value == 5
    assert updated.retry_policy.max_delivery_attempts == 5  # what a PATCH does not name stays
    assert operations.get_full_url(scope, name).endpoint_url == handler.url

    echoed = operations.begin_update(scope, name, {"destination": got.destination.serialize()}).result()  # endpointUrl is null in it
    assert echoed.provisioning_state == "Succeeded" and operations.get_full_url(scope, name).endpoint_url == handler.url

    replaced = operations.begin_create_or_update(scope, name, to(handler)).result()
    assert not replaced.labels and not replaced.filter.advanced_filters and replaced.expiration_time_utc is None
    assert (replaced.retry_policy.max_delivery_attempts, replaced.retry_policy.event_time_to_live_in_minutes) == (30, 1440)
    if source == "workspace":
        assert set(replaced.filter.included_event_types) == FIVE

    assert name in {es.name for es in operations.list_by_resource(GROUP, provider, kind, resource)}
    topic_type = "Microsoft.EventGrid.Topics" if source == "topic" else TOPIC_TYPE
    for listed in (operations.list_regional_by_resource_group(GROUP, "local"), operations.list_regional_by_subscription("local"),
                   operations.list_regional_by_resource_group_for_topic_type(GROUP, "local", topic_type),
                   operations.list_regional_by_subscription_for_topic_type("local", topic_type)):
        assert name in {es.name for es in listed}

    operations.begin_delete(scope, name).result()
    operations.begin_delete(scope, name).result()
    with pytest.raises(ResourceNotFoundError):
        operations.get(scope, name)


def test_one_event_subscription_under_two_paths(management, make_topic, make_handler, unique):
    topic, _ = make_topic()
    name, handler = unique("es"), make_handler()
    nested = management.topic_event_subscriptions
    made = nested.begin_create_or_update(GROUP, topic.name, name, to(handler)).result()
    assert made.type == "Microsoft.EventGrid/topics/eventSubscriptions" and made.id == f"{topic.id}/eventSubscriptions/{name}"
    assert management.event_subscriptions.get(topic.id, name).type == "Microsoft.EventGrid/eventSubscriptions"
    nested.begin_update(GROUP, topic.name, name, EventSubscriptionUpdateParameters(labels=["l"])).result()
    assert management.event_subscriptions.get(topic.id, name).labels == ["l"]
    assert nested.get_full_url(GROUP, topic.name, name).endpoint_url == handler.url
    assert [es.name for es in nested.list(GROUP, topic.name)] == [name]
    management.event_subscriptions.begin_delete(topic.id, name).result()
    with pytest.raises(ResourceNotFoundError):
        nested.get(GROUP, topic.name, name)


@pytest.mark.parametrize("schema, method", [("EventGridSchema", "POST"), ("CloudEventSchemaV1_0", "OPTIONS")])
def test_refused_handshake(management, make_topic, make_handler, unique, schema, method):
    topic, _ = make_topic()
    name, handler = unique("es"), make_handler("refuse")
    with pytest.raises(HttpResponseError) as refusal:
        management.event_subscriptions.begin_create_or_update(topic.id, name, to(handler, event_delivery_schema=schema)).result()
    error = refusal.value.error
    assert (refusal.value.status_code, error.code) == (400, "Url validation")
    assert error.message.startswith(
        f"Webhook validation handshake failed for {handler.base_url}. Http {method} request failed with response code Forbidden.")
    assert "https://aka.ms/esvalidation" in error.message and "s3cret" not in error.message
    with pytest.raises(ResourceNotFoundError):
        management.event_subscriptions.get(topic.id, name)


def test_unreachable_endpoint(management, make_topic, make_handler, unique):
    topic, _ = make_topic()
    handler = make_handler()
    handler.close()
    with pytest.raises(HttpResponseError) as refusal:
        management.event_subscriptions.begin_create_or_update(topic.id, unique("es"), to(handler)).result()
    assert (refusal.value.status_code, refusal.value.error.code) == (400, "Url validation")
    assert refusal.value.error.message.startswith(
        f"Webhook validation handshake failed for {handler.base_url}. Http POST request failed with response code Unknown.")


@pytest.mark.parametrize("schema", ["EventGridSchema", "CloudEventSchemaV1_0"])
def test_handshake_by_hand(management, make_topic, make_handler, unique, server, schema):
    topic, _ = make_topic()
    name, handler = unique("es"), make_handler("silent")
    operation = management.event_subscriptions.begin_create_or_update(topic.id, name, to(handler, event_delivery_schema=schema))
    assert management.event_subscriptions.get(topic.id, name).provisioning_state == "AwaitingManualAction"
    [handshake] = handler.handshakes()
    if schema == "EventGridSchema":
        link = handshake.events()[0]["data"]["validationUrl"]
    else:
        link = handshake.headers["webhook-request-callback"]
    assert requests.get(link, verify=server.ca, timeout=10).status_code == 200
    operation.result()
    assert management.event_subscriptions.get(topic.id, name).provisioning_state == "Succeeded"


@pytest.mark.parametrize("case, properties, target", [
    ("value of the wrong type", {"filter": {"advancedFilters": [{"operatorType": "NumberGreaterThan", "key": "data.n", "value": "5"}]}}, "advancedFilters"),
    ("unknown operator", {"filter": {"advancedFilters": [{"operatorType": "Sounds", "key": "data.n", "values": ["5"]}]}}, "advancedFilters"),
    ("too many attempts", {"retryPolicy": {"maxDeliveryAttempts": 31}}, "maxDeliveryAttempts"),
    ("http to a foreign host", {"destination": {"endpointType": "WebHook", "properties": {"endpointUrl": "http://example.org/"}}}, "endpointUrl"),
])
def test_bad_event_subscription(management, make_topic, make_handler, unique, case, properties, target):
    topic, _ = make_topic()
    body = to(make_handler()).serialize()
    body["properties"].update(properties)
    raw = io.BytesIO(json.dumps(body).encode())  # a model would not hold these values
    with pytest.raises(HttpResponseError) as refusal:
        management.event_subscriptions.begin_create_or_update(topic.id, unique("es"), raw).result()
    assert refusal.value.status_code == 400 and refusal.value.error.code
    assert target in (refusal.value.error.target or "") + refusal.value.error.message


def test_unknown_source(management, make_handler):
    with pytest.raises(ResourceNotFoundError):
        management.event_subscriptions.begin_create_or_update(topic_id("nowhere"), "es", to(make_handler())).result()


def test_system_topic(management, make_handler, unique):
    [system_topic] = [t for t in management.system_topics.list_by_resource_group(GROUP) if t.source.lower() == WORKSPACE_ID.lower()]
    assert system_topic.id in {t.id for t in management.system_topics.list_by_subscription()}
    got = management.system_topics.get(GROUP, system_topic.name)
    assert (got.source, got.topic_type, got.provisioning_state) == (WORKSPACE_ID, TOPIC_TYPE, "Succeeded")
    assert got.type == "Microsoft.EventGrid/systemTopics" and got.location == "local"

    operations = management.system_topic_event_subscriptions
    name, handler = unique("es"), make_handler()
    made = operations.begin_create_or_update(GROUP, got.name, name, to(handler, labels=["a"])).result()
    assert made.type == "Microsoft.EventGrid/systemTopics/eventSubscriptions" and made.provisioning_state == "Succeeded"
    assert set(made.filter.included_event_types) == FIVE
    updated = operations.begin_update(GROUP, got.name, name, EventSubscriptionUpdateParameters(labels=["b"])).result()
    assert updated.labels == ["b"] and operations.get(GROUP, got.name, name).labels == ["b"]
    assert operations.get_full_url(GROUP, got.name, name).endpoint_url == handler.url
    assert operations.get_delivery_attributes(GROUP, got.name, name).value == []
    assert name in {es.name for es in operations.list_by_system_topic(GROUP, got.name)}
    everything = management.event_subscriptions.list_by_resource(GROUP, "Microsoft.MachineLearningServices", "workspaces", WORKSPACE)
    assert name in {es.name for es in everything}
    operations.begin_delete(GROUP, got.name, name).result()
    with pytest.raises(ResourceNotFoundError):
        operations.get(GROUP, got.name, name)


def test_catalogue(management):
    types = {t.name: t for t in management.topic_types.list()}
    assert {TOPIC_TYPE, "Microsoft.EventGrid.Topics"} <= set(types)
    assert management.topic_types.get(TOPIC_TYPE.lower()).provider == "Microsoft.MachineLearningServices"
    listed = list(management.topic_types.list_event_types(TOPIC_TYPE))
    assert {e.name for e in listed if e.is_in_default_set} == FIVE and all(e.display_name and e.description for e in listed)
    assert "Carillon.MachineLearning.DeploymentFailed" in {e.name for e in listed}
    of_source = management.topics.list_event_types(GROUP, "Microsoft.MachineLearningServices", "workspaces", WORKSPACE)
    assert {e.name for e in of_source if e.is_in_default_set} == FIVE
    assert management.operations.list().next().name.startswith("Microsoft.EventGrid/")


def test_extension_topic(management):
    """The SDK sends the slashes of the scope percent-encoded here, and only here."""
    assert management.extension_topics.get(WORKSPACE_ID).system_topic.lower().startswith(f"{GROUP_ID}/providers/Microsoft.EventGrid/systemTopics/".lower())
