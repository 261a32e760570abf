"""Who may do what: azure-identity signs in at the built-in issuer, roles decide.
Source: spec/access.md sections 3, 10 and 11."""

import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.eventgrid import EventGridEvent, EventGridPublisherClient
from azure.identity import ClientSecretCredential
from azure.mgmt.eventgrid.models import Domain, EventSubscription, Topic, TopicUpdateParameters, WebHookEventSubscriptionDestination

from server import AUDIENCE, GROUP, GROUP_ID, WORKSPACE_ID, StaticToken


@pytest.fixture
def principal(server, unique):
    """Makes a principal with roles; returns it and its management client."""
    made = []

    def make(*grants):
        shown = server.command("principal", "create", unique("ci"))
        for role, scope in grants:
            server.command("role", "assignment", "create", "--assignee", shown["objectId"], "--role", role, "--scope", scope)
        client = server.management(credential_of(server, shown))
        made.append(client)
        return shown, client

    yield make
    for client in made:
        client.close()


def credential_of(server, shown, **changed) -> ClientSecretCredential:
    return ClientSecretCredential(
        shown["tenant"], shown["appId"], changed.get("password", shown["password"]), authority=server.url,
        disable_instance_discovery=True, connection_verify=server.ca)


def refused(refusal) -> str:
    assert refusal.value.status_code == 403 and refusal.value.error.message
    return refusal.value.error.code


def create_on(client, scope, handler, name):
    return client.event_subscriptions.begin_create_or_update(
        scope, name, EventSubscription(destination=WebHookEventSubscriptionDestination(endpoint_url=handler.url))).result()


def test_client_secret(server, principal):
    shown, _ = principal()
    token = credential_of(server, shown).get_token(AUDIENCE)
    assert token.token.count(".") == 2 and token.expires_on
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        credential_of(server, shown, password="wrong").get_token(AUDIENCE)


def test_no_token_that_holds(server):
    with server.management(StaticToken("not.a.token")) as client, pytest.raises(ClientAuthenticationError) as refusal:
        list(client.topics.list_by_resource_group(GROUP))
    assert (refusal.value.status_code, refusal.value.error.code) == (401, "InvalidAuthenticationToken")


def test_without_a_role(principal, make_topic):
    topic, _ = make_topic()
    shown, client = principal()
    with pytest.raises(HttpResponseError) as refusal:
        client.topics.get(GROUP, topic.name)
    assert refused(refusal) == "AuthorizationFailed"
    message = refusal.value.error.message
    assert f"'{shown['objectId']}'" in message and "'Microsoft.EventGrid/topics/read'" in message and topic.id in message


def test_role_is_granted_and_taken_away(server, principal, make_topic):
    topic, _ = make_topic()
    shown, client = principal()
    made = server.command("role", "assignment", "create", "--assignee", shown["objectId"], "--role", "Reader", "--scope", topic.id)
    assert client.topics.get(GROUP, topic.name).id == topic.id
    with pytest.raises(HttpResponseError) as refusal:
        client.topics.list_shared_access_keys(GROUP, topic.name)  # Reader sees no secrets
    assert refused(refusal) == "AuthorizationFailed"
    server.command("role", "assignment", "delete", "--ids", made["id"])
    with pytest.raises(HttpResponseError) as refusal:
        client.topics.get(GROUP, topic.name)
    assert refused(refusal) == "AuthorizationFailed"


def test_reader_of_the_workspace(principal, make_handler, subscribe):
    handler = make_handler()
    existing = subscribe(WORKSPACE_ID, handler)
    _, client = principal(("Reader", WORKSPACE_ID))
    assert client.event_subscriptions.get(WORKSPACE_ID, existing.name).id == existing.id
    for forbidden in (lambda: create_on(client, WORKSPACE_ID, handler, "es-of-reader"),
                      lambda: client.event_subscriptions.begin_update(WORKSPACE_ID, existing.name, {"labels": ["mine"]}),
                      lambda: client.event_subscriptions.begin_delete(WORKSPACE_ID, existing.name),
                      lambda: client.event_subscriptions.get_full_url(WORKSPACE_ID, existing.name)):
        with pytest.raises(HttpResponseError) as refusal:
            forbidden()
        assert refused(refusal) == "AuthorizationFailed"
    assert len(handler.handshakes()) == 1  # nobody was asked on behalf of a Reader


@pytest.mark.parametrize("role, scope", [("Contributor", WORKSPACE_ID), ("Owner", WORKSPACE_ID), ("Contributor", GROUP_ID)])
def test_contributor_of_the_workspace(principal, make_handler, unique, role, scope):
    _, client = principal((role, scope))
    handler, name = make_handler(), unique("es")
    assert create_on(client, WORKSPACE_ID, handler, name).provisioning_state == "Succeeded"
    assert client.event_subscriptions.begin_update(WORKSPACE_ID, name, {"labels": ["mine"]}).result().labels == ["mine"]
    assert client.event_subscriptions.get_full_url(WORKSPACE_ID, name).endpoint_url == handler.url
    client.event_subscriptions.begin_delete(WORKSPACE_ID, name).result()


def test_contributor_of_another_group(principal, make_handler, server):
    _, client = principal(("Contributor", f"{GROUP_ID}/providers/Microsoft.MachineLearningServices/workspaces/another"))
    with pytest.raises(HttpResponseError) as refusal:
        create_on(client, WORKSPACE_ID, make_handler(), "es")
    assert refused(refusal) == "AuthorizationFailed"


@pytest.mark.parametrize("role", ["EventGrid Contributor", "EventGrid EventSubscription Contributor"])
def test_strict_workspace_rule(principal, management, make_topic, make_handler, unique, role):
    """The Event Grid roles manage event subscriptions of topics, but of workspaces
    only with write permission on the workspace; its system topic is no way around."""
    topic, _ = make_topic()
    _, client = principal((role, GROUP_ID))
    handler, name = make_handler(), unique("es")
    assert create_on(client, topic.id, handler, name).provisioning_state == "Succeeded"
    with pytest.raises(HttpResponseError) as refusal:
        create_on(client, WORKSPACE_ID, handler, name)
    assert refused(refusal) == "LinkedAuthorizationFailed"
    assert "Microsoft.MachineLearningServices/workspaces/write" in refusal.value.error.message
    [system_topic] = [t.name for t in management.system_topics.list_by_resource_group(GROUP) if t.source.lower() == WORKSPACE_ID.lower()]
    with pytest.raises(HttpResponseError) as refusal:
        client.system_topic_event_subscriptions.begin_create_or_update(
            GROUP, system_topic, name, EventSubscription(destination=WebHookEventSubscriptionDestination(endpoint_url=handler.url)))
    assert refused(refusal) in ("LinkedAuthorizationFailed", "AuthorizationFailed")


def test_topic_made_by_a_principal(principal, management, unique):
    _, client = principal(("EventGrid Contributor", GROUP_ID))
    name = unique("orders")
    made = client.topics.begin_create_or_update(GROUP, name, Topic(location="local")).result()
    assert made.system_data.created_by_type == "Application"
    client.topics.begin_delete(GROUP, name).result()


def test_publishing_with_a_token(principal, server, make_topic, make_handler, subscribe):
    """EventGrid Data Sender at the topic or above publishes; what else a principal may do does not count."""
    topic, _ = make_topic()
    other, _ = make_topic()
    handler = make_handler()
    subscribe(topic.id, handler)
    shown, _ = principal(("Owner", GROUP_ID))
    event = EventGridEvent("orders/1", "Shop.OrderPlaced", {"number": 1}, "1.0")
    with EventGridPublisherClient(topic.endpoint, credential_of(server, shown)) as client, \
            EventGridPublisherClient(other.endpoint, credential_of(server, shown)) as elsewhere:
        for refusing in (client, elsewhere):
            with pytest.raises(HttpResponseError) as refusal:
                refusing.send(event)
            assert refused(refusal) == "Forbidden"
        assert f"'{shown['objectId']}'" in refusal.value.error.message and "EventGrid Data Sender" in refusal.value.error.message
        made = server.command("role", "assignment", "create", "--assignee", shown["objectId"], "--role", "EventGrid Data Sender", "--scope", topic.id)
        client.send(event)
        with pytest.raises(HttpResponseError) as refusal:
            elsewhere.send(event)
        assert refused(refusal) == "Forbidden"
        server.command("role", "assignment", "delete", "--ids", made["id"])
        with pytest.raises(HttpResponseError) as refusal:
            client.send(event)
        assert refused(refusal) == "Forbidden"
    assert len(handler.wait(1)) == 1


def test_publishing_to_a_domain_with_a_token(principal, server, management, unique):
    """The role counts at the domain, not at one of its topics: they have no endpoint."""
    domain = management.domains.begin_create_or_update(GROUP, unique("shops"), Domain(location="local")).result()
    topic = management.domain_topics.begin_create_or_update(GROUP, domain.name, "tenant-a").result()
    event = EventGridEvent("orders/1", "Shop.OrderPlaced", {"number": 1}, "1.0")
    event.topic = "tenant-a"
    shown, _ = principal(("EventGrid Data Sender", topic.id))
    with EventGridPublisherClient(domain.endpoint, credential_of(server, shown)) as client, pytest.raises(HttpResponseError) as refusal:
        client.send(event)
    assert refused(refusal) == "Forbidden"
    shown, _ = principal(("EventGrid Data Sender", domain.id))
    with EventGridPublisherClient(domain.endpoint, credential_of(server, shown)) as client:
        client.send([event])
    management.domains.begin_delete(GROUP, domain.name).result()


def test_tokens_alone(principal, server, management, make_topic):
    """With disableLocalAuth a topic takes tokens for publishing, and nothing else."""
    topic, keys = make_topic()
    management.topics.begin_update(GROUP, topic.name, TopicUpdateParameters(disable_local_auth=True)).result()
    assert management.topics.get(GROUP, topic.name).disable_local_auth is True
    shown, _ = principal(("EventGrid Data Sender", GROUP_ID))
    event = EventGridEvent("orders/1", "Shop.OrderPlaced", {"number": 1}, "1.0")
    with EventGridPublisherClient(topic.endpoint, credential_of(server, shown)) as client:
        client.send(event)
    for credential in (AzureKeyCredential(keys.key1), StaticToken(server.token), StaticToken("not.a.token")):  # the second is for the management plane
        with EventGridPublisherClient(topic.endpoint, credential) as client, pytest.raises(ClientAuthenticationError) as refusal:
            client.send(event)
        assert refusal.value.status_code == 401 and refusal.value.error.code == "Unauthorized"
        assert refusal.value.response.headers["WWW-Authenticate"].startswith(f'Bearer authorization_uri="{server.url}/')
