"""The az CLI, unmodified: a cloud registered, a service principal signed in, and every
row of what az sends for Event Grid. Source: spec/management.md sections 3 and 10.3.
It runs in a virtual environment of its own, because it pins older SDKs."""

import base64
import json
import os
import re
import subprocess
import sys
import time

import certifi
import pytest
import requests
from azure.storage.queue import QueueClient

import kafka_broker
from azurite import Azurite
from certificates import make_certificate
from pages import Browser
from server import GROUP, GROUP_ID, SUBSCRIPTION, TOPIC_TYPE

AUDIENCE = "https://management.azure.com"
TOPICS = "Microsoft.EventGrid.Topics"


class Failure(Exception):
    """az ended with an error. The text is what people see."""


class Az:
    """One configuration directory of az, so that nobody's own sign-in is touched."""

    def __init__(self, server, directory):
        bundle = directory / "ca-bundle.pem"
        with open(server.ca) as ours, open(certifi.where()) as everybodys:
            bundle.write_text(everybodys.read() + ours.read())
        self._env = {**os.environ, "AZURE_CONFIG_DIR": str(directory), "REQUESTS_CA_BUNDLE": str(bundle), "AZURE_CORE_COLLECT_TELEMETRY": "0",
                     "AZURE_CORE_ONLY_SHOW_ERRORS": "true", "AZURE_CORE_NO_COLOR": "1", "AZURE_EXTENSION_USE_DYNAMIC_INSTALL": "no"}

    def __call__(self, words: str, *more: str):
        """Runs az with the words of a string, and arguments that hold spaces behind
        them; returns its output as parsed JSON."""
        arguments = [os.environ["CARILLON_AZ"], *words.split(), *more, "-o", "json"]
        ran = subprocess.run(arguments, env=self._env, capture_output=True, text=True, timeout=180)
        if ran.returncode != 0:
            raise Failure(ran.stderr)
        return json.loads(ran.stdout) if ran.stdout.strip() else None

    def register(self, server, authority: str) -> None:
        self(f"cloud register -n carillon --endpoint-resource-manager {server.url} --endpoint-active-directory {authority} "
             f"--endpoint-active-directory-resource-id {AUDIENCE} --endpoint-active-directory-graph-resource-id {server.url}/graph")
        self("cloud set -n carillon")

    def login(self, who: dict):
        return self(f"login --service-principal -u {who['appId']} --tenant {who['tenant']}", f"--password={who['password']}")


@pytest.fixture(scope="module")
def principal(server):
    """An owner of the subscription, with the secret that it signs in with."""
    who = server.command("principal", "create", "az-cli")
    server.command("role", "assignment", "create", "--assignee", who["objectId"], "--role", "Owner", "--scope", f"/subscriptions/{SUBSCRIPTION}")
    return who


@pytest.fixture(scope="module")
def az(server, principal, tmp_path_factory):
    """Signed in at an authority of Entra's shape."""
    az = Az(server, tmp_path_factory.mktemp("az"))
    az.register(server, server.url)
    az("config set core.instance_discovery=false")
    az.login(principal)
    return az


@pytest.fixture
def group(az, unique):
    name = unique("rg")
    az(f"group create -n {name} -l local")
    yield name
    if az(f"group exists -n {name}"):
        az(f"group delete -n {name} --yes")


@pytest.fixture
def topic(az, group):
    return az(f"eventgrid topic create -g {group} -n orders -l local")


@pytest.mark.parametrize("shape, how", [
    ("Entra ID", "{url}"), ("AD FS", "{url}/adfs"), ("the server's own metadata", ""),
])
def test_login(server, principal, tmp_path, shape, how):
    az = Az(server, tmp_path)
    if how:
        az.register(server, how.format(url=server.url))
    else:  # az reads the other endpoints from /metadata/endpoints
        az(f"cloud register -n carillon --endpoint-resource-manager {server.url}")
        az("cloud set -n carillon")
    if shape != "AD FS":
        az("config set core.instance_discovery=false")
    with pytest.raises(Failure, match="AADSTS7000215"):
        az.login({**principal, "password": "wrong"})
    [account] = az.login(principal)
    assert (account["id"], account["state"], account["tenantId"], account["user"]) == (
        SUBSCRIPTION, "Enabled", principal["tenant"], {"name": principal["appId"], "type": "servicePrincipal"})
    assert az("account show")["environmentName"] == "carillon"
    assert GROUP in {g["name"] for g in az("group list")}
    token = az("account get-access-token")["accessToken"]
    answer = requests.get(f"{server.url}{GROUP_ID}", params={"api-version": "2021-04-01"}, headers={"Authorization": "Bearer " + token}, verify=server.ca, timeout=10)
    assert answer.status_code == 200


def test_group(az, unique):
    name = unique("rg")
    assert az(f"group exists -n {name}") is False
    with pytest.raises(Failure, match="ResourceGroupNotFound"):
        az(f"group show -n {name}")
    made = az(f"group create -n {name} -l local --tags team=growth")
    assert (made["id"], made["properties"]["provisioningState"]) == (f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}", "Succeeded")
    assert az(f"group exists -n {name}") is True
    assert az(f"group update -n {name} --tags team=crm")["tags"] == {"team": "crm"}
    assert name in {g["name"] for g in az("group list --tag team=crm")}
    az(f"group wait -n {name} --exists")
    az(f"eventgrid topic create -g {name} -n inside -l local")
    az(f"group delete -n {name} --yes")
    assert az(f"group exists -n {name}") is False
    with pytest.raises(Failure, match="ResourceGroupNotFound"):
        az(f"eventgrid topic show -g {name} -n inside")


def test_topic(az, group):
    made = az(f"eventgrid topic create -g {group} -n orders -l local --tags team=growth")
    assert (made["name"], made["location"], made["inputSchema"], made["provisioningState"], made["tags"]) == (
        "orders", "local", "EventGridSchema", "Succeeded", {"team": "growth"})
    assert az(f"eventgrid topic show -g {group} -n ORDERS")["endpoint"] == made["endpoint"]
    az(f"eventgrid topic create -g {group} -n cloud -l local --input-schema cloudeventschemav1_0 --public-network-access enabled --inbound-ip-rules 127.0.0.0/8 allow")
    assert {t["name"] for t in az(f"eventgrid topic list -g {group}")} == {"orders", "cloud"}
    assert made["id"] in {t["id"] for t in az("eventgrid topic list")}
    assert [t["name"] for t in az(f"eventgrid topic list -g {group}", "--odata-query", "CONTAINS(name,'ord')")] == ["orders"]
    updated = az(f"eventgrid topic update -g {group} -n orders --tags team=crm --public-network-access enabled --inbound-ip-rules 127.0.0.0/8 allow")
    assert updated["tags"] == {"team": "crm"} and updated["inboundIpRules"] == [{"action": "Allow", "ipMask": "127.0.0.0/8"}]

    keys = az(f"eventgrid topic key list -g {group} -n orders")
    after = az(f"eventgrid topic key regenerate -g {group} -n orders --key-name key1")
    assert after["key1"] != keys["key1"] and after["key2"] == keys["key2"]

    az(f"eventgrid topic delete -g {group} -n orders")
    az(f"eventgrid topic delete -g {group} -n orders")  # a missing one is no error
    with pytest.raises(Failure, match="ResourceNotFound"):
        az(f"eventgrid topic show -g {group} -n orders")


def test_topic_of_custom_input(az, group):
    """What a create shows holds the kind of the mapping and of each of its fields."""
    made = az(f"eventgrid topic create -g {group} -n custom -l local --input-schema customeventschema --input-mapping-fields id=trackingId eventType=kind "
              "--input-mapping-default-values subject=none dataVersion=1.0")
    mapping = made["inputSchemaMapping"]
    assert mapping["inputSchemaMappingType"] == "Json"
    assert (mapping["id"], mapping["eventType"]["sourceField"], mapping["subject"]["defaultValue"]) == ({"sourceField": "trackingId"}, "kind", "none")


def test_what_az_says_of_a_refusal(az, group, topic):
    with pytest.raises(Failure, match="InvalidResourceName.*3 to 50"):
        az(f"eventgrid topic create -g {group} -n ab -l local")
    with pytest.raises(Failure, match="identity.type"):
        az(f"eventgrid topic create -g {group} -n with-identity -l local --identity systemassigned")
    with pytest.raises(Failure, match="Url validation.*the connection was refused"):
        az(f"eventgrid event-subscription create -n es-refused --source-resource-id {topic['id']} --endpoint http://127.0.0.1:1/hook")


def test_event_subscription(az, topic, make_handler):
    source, handler = f"--source-resource-id {topic['id']}", make_handler()
    filters = ("--advanced-filter data.number NumberIn 1 2 3 --advanced-filter data.number NumberNotIn 7 --advanced-filter data.number NumberInRange 1,2 3,4 "
               "--advanced-filter data.number NumberLessThan 9 --advanced-filter data.color StringBeginsWith b c --advanced-filter data.color StringNotContains x "
               "--advanced-filter data.ok BoolEquals true --advanced-filter data.gone IsNullOrUndefined --advanced-filter data.number IsNotNull")
    made = az(f"eventgrid event-subscription create -n es-all {source} --endpoint {handler.url} --max-events-per-batch 10 --preferred-batch-size-in-kilobytes 128 "
              f"--included-event-types Shop.OrderPlaced --subject-begins-with orders/ --subject-ends-with /1 --subject-case-sensitive true --labels one two {filters} "
              "--enable-advanced-filtering-on-arrays true --event-ttl 60 --max-delivery-attempts 5 --expiration-date 2099-05-05 "
              "--delivery-attribute-mapping X-Static static s3cret true --delivery-attribute-mapping X-Dynamic dynamic data.color")
    assert (made["provisioningState"], made["destination"]["endpointType"], made["destination"]["endpointBaseUrl"]) == ("Succeeded", "WebHook", handler.base_url)
    assert (made["destination"]["maxEventsPerBatch"], made["destination"]["preferredBatchSizeInKilobytes"]) == (10, 128)
    assert made["retryPolicy"] == {"eventTimeToLiveInMinutes": 60, "maxDeliveryAttempts": 5} and made["labels"] == ["one", "two"]
    assert made["expirationTimeUtc"].startswith("2099-05-05T00:00:00")
    shown = made["filter"]
    assert (shown["subjectBeginsWith"], shown["subjectEndsWith"], shown["isSubjectCaseSensitive"]) == ("orders/", "/1", True)
    assert [f["operatorType"] for f in shown["advancedFilters"]] == [
        "NumberIn", "NumberNotIn", "NumberInRange", "NumberLessThan", "StringBeginsWith", "StringNotContains", "BoolEquals", "IsNullOrUndefined", "IsNotNull"]
    assert shown["advancedFilters"][2]["values"] == [[1.0, 2.0], [3.0, 4.0]]

    got = az(f"eventgrid event-subscription show -n es-all {source}")
    assert got == made and "s3cret" not in json.dumps(got)
    whole = az(f"eventgrid event-subscription show -n es-all {source} --include-full-endpoint-url true --include-static-delivery-attribute-secret true")
    assert whole["destination"]["endpointUrl"] == handler.url
    assert whole["destination"]["deliveryAttributeMappings"]["value"] == [
        {"isSecret": True, "name": "X-Static", "type": "Static", "value": "s3cret"}, {"name": "X-Dynamic", "sourceField": "data.color", "type": "Dynamic"}]

    # az sends the destination back as it was shown, without its URL and its secret.
    updated = az(f"eventgrid event-subscription update -n es-all {source} --labels three --subject-ends-with /2")
    assert updated["labels"] == ["three"] and updated["filter"]["subjectEndsWith"] == "/2"
    whole = az(f"eventgrid event-subscription show -n es-all {source} --include-full-endpoint-url true --include-static-delivery-attribute-secret true")
    assert whole["destination"]["endpointUrl"] == handler.url and whole["destination"]["deliveryAttributeMappings"]["value"][0]["value"] == "s3cret"
    other = make_handler()
    az(f"eventgrid event-subscription update -n es-all {source} --endpoint {other.url}")
    assert len(other.handshakes()) == 1

    az(f"eventgrid event-subscription delete -n es-all {source}")
    az(f"eventgrid event-subscription delete -n es-all {source}")
    with pytest.raises(Failure, match="ResourceNotFound"):
        az(f"eventgrid event-subscription show -n es-all {source}")


def test_event_arrives(az, server, group, topic, make_handler):
    handler = make_handler()
    az(f"eventgrid event-subscription create -n es-orders --source-resource-id {topic['id']} --endpoint {handler.url} --advanced-filter data.number NumberIn 1 2")
    key = az(f"eventgrid topic key list -g {group} -n orders")["key1"]
    events = [{"id": f"e{n}", "eventType": "Shop.OrderPlaced", "subject": f"orders/{n}", "eventTime": "2026-01-02T03:04:05Z", "dataVersion": "1", "data": {"number": n}}
              for n in (3, 2)]
    answer = requests.post(topic["endpoint"], params={"api-version": "2018-01-01"}, json=events, headers={"aeg-sas-key": key}, verify=server.ca, timeout=10)
    assert answer.status_code == 200
    assert [e["id"] for e in handler.wait(1)] == ["e2"]


def test_destinations_of_azure(az, server, group, topic, make_handler, tmp_path):
    """What az makes of the ids of a queue, an event hub and a function, and what comes there."""
    of_group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers"
    account, hub = f"{of_group}/Microsoft.Storage/storageAccounts/acct", f"{of_group}/Microsoft.EventHub/namespaces/ns/eventhubs/hub"
    function, app = f"{of_group}/Microsoft.Web/sites/app/functions/train", make_handler()
    azurite, broker = Azurite(tmp_path, "queue"), kafka_broker.Kafka(tmp_path, "hub")
    try:
        for resource, text in (
                (account, azurite.connection), (function, f"Endpoint=http://127.0.0.1:{app.port};SystemKey=s3cret"),
                (hub, f"BootstrapServers={broker.address};Security=SaslPlaintext;Username={kafka_broker.USER};Password={kafka_broker.PASSWORD}")):
            server.connect(resource, text)
        queue = QueueClient.from_connection_string(azurite.connection, "ml-events")
        queue.create_queue()
        create = f"eventgrid event-subscription create --source-resource-id {topic['id']}"
        made = az(f"{create} -n es-queue --endpoint-type storagequeue --endpoint {account}/queueservices/default/queues/ml-events --storage-queue-msg-ttl 300")
        assert made["destination"] == {"endpointType": "StorageQueue", "resourceId": account, "queueName": "ml-events", "queueMessageTimeToLiveInSeconds": 300}
        made = az(f"{create} -n es-hub --endpoint-type eventhub --endpoint {hub} --delivery-attribute-mapping PartitionKey dynamic subject")
        assert (made["destination"]["endpointType"], made["destination"]["resourceId"]) == ("EventHub", hub)
        made = az(f"{create} -n es-function --endpoint-type azurefunction --endpoint {function} --max-events-per-batch 10")
        assert (made["destination"]["endpointType"], made["destination"]["resourceId"], made["destination"]["maxEventsPerBatch"]) == ("AzureFunction", function, 10)
        with pytest.raises(Failure, match="no queue nowhere"):
            az(f"{create} -n es-nowhere --endpoint-type storagequeue --endpoint {account}/queueservices/default/queues/nowhere")

        event = {"id": "e1", "eventType": "Shop.OrderPlaced", "subject": "orders/1", "eventTime": "2026-01-02T03:04:05Z", "dataVersion": "1", "data": {}}
        key = az(f"eventgrid topic key list -g {group} -n orders")["key1"]
        assert requests.post(topic["endpoint"], params={"api-version": "2018-01-01"}, json=[event], headers={"aeg-sas-key": key}, verify=server.ca, timeout=10).ok
        assert [e["id"] for e in app.wait(1)] == ["e1"]
        [record] = broker.records("hub", 1)
        assert record.key == b"orders/1" and [e["id"] for e in json.loads(record.value)] == ["e1"]
        for _ in range(50):
            messages = queue.peek_messages(2)
            if messages:
                break
            time.sleep(0.1)
        assert [json.loads(base64.b64decode(m.content))["id"] for m in messages] == ["e1"]
    finally:
        azurite.close()
        broker.close()


def test_event_subscription_lists(az, group, topic, make_handler):
    handler, source = make_handler(), topic["id"]
    az(f"eventgrid event-subscription create -n es-listed --source-resource-id {source} --endpoint {handler.url}")
    inside = [f"--source-resource-id {source}", "--location local", f"--location local -g {group}", f"--location local --topic-type-name {TOPICS}",
              f"--location Local -g {group} --topic-type-name {TOPICS.lower()}"]
    outside = ["--location elsewhere", "--location global", "--location global --topic-type-name Microsoft.Resources.ResourceGroups",
               f"--source-resource-id /subscriptions/{SUBSCRIPTION}", f"--source-resource-id /subscriptions/{SUBSCRIPTION}/resourceGroups/{group}",
               f"--location local -g {GROUP}", f"--location local --topic-type-name {TOPIC_TYPE}"]
    for where in inside:
        assert "es-listed" in {es["name"] for es in az(f"eventgrid event-subscription list {where}")}, where
    for where in outside:
        assert "es-listed" not in {es["name"] for es in az(f"eventgrid event-subscription list {where}")}, where
    for query, found in (("name eq 'es-listed'", ["es-listed"]), ("not contains(name,'listed')", [])):
        assert [es["name"] for es in az(f"eventgrid event-subscription list --source-resource-id {source}", "--odata-query", query)] == found


def test_nested_event_subscription(az, group, topic, make_handler):
    handler, at = make_handler(), f"-g {group} --topic-name orders"
    made = az(f"eventgrid topic event-subscription create {at} -n es-nested --endpoint {handler.url}")
    assert (made["id"], made["type"]) == (f"{topic['id']}/eventSubscriptions/es-nested", "Microsoft.EventGrid/topics/eventSubscriptions")
    shown = az(f"eventgrid topic event-subscription show {at} -n es-nested --include-full-endpoint-url true")
    assert shown["destination"]["endpointUrl"] == handler.url
    assert az(f"eventgrid topic event-subscription update {at} -n es-nested --subject-begins-with a")["filter"]["subjectBeginsWith"] == "a"
    assert [es["name"] for es in az(f"eventgrid topic event-subscription list {at}")] == ["es-nested"]
    az(f"eventgrid topic event-subscription delete {at} -n es-nested --yes")
    assert az(f"eventgrid topic event-subscription list {at}") == []


def test_system_topic(az, server, group, make_handler):
    workspace = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices/workspaces/churn"
    az(f"resource create --id {workspace} --api-version 2024-04-01 --is-full-object --properties", '{"location": "local", "properties": {}}')
    made = az(f"eventgrid system-topic create -g {group} -n from-az -l local --source {workspace} --topic-type {TOPIC_TYPE.lower()}")
    assert (made["source"], made["topicType"], made["provisioningState"]) == (workspace, TOPIC_TYPE, "Succeeded")
    assert az(f"eventgrid system-topic update -g {group} -n from-az --tags team=ml")["tags"] == {"team": "ml"}
    assert az(f"eventgrid system-topic show -g {group} -n from-az")["tags"] == {"team": "ml"}
    assert made["id"] in {t["id"] for t in az(f"eventgrid system-topic list -g {group}")}
    assert made["id"] in {t["id"] for t in az("eventgrid system-topic list")}
    assert az(f"eventgrid extension-topic show --scope {workspace}")["systemTopic"] == made["id"]

    handler, at = make_handler(), f"-g {group} --system-topic-name from-az"
    nested = az(f"eventgrid system-topic event-subscription create {at} -n es-runs --endpoint {handler.url} "
                "--included-event-types Microsoft.MachineLearningServices.RunCompleted")
    assert (nested["type"], nested["topic"].lower()) == ("Microsoft.EventGrid/systemTopics/eventSubscriptions", workspace.lower())
    assert az(f"eventgrid system-topic event-subscription update {at} -n es-runs --labels ml")["labels"] == ["ml"]
    shown = az(f"eventgrid system-topic event-subscription show {at} -n es-runs --include-full-endpoint-url true")
    assert shown["destination"]["endpointUrl"] == handler.url
    assert [es["name"] for es in az(f"eventgrid system-topic event-subscription list {at}")] == ["es-runs"]
    assert [es["name"] for es in az(f"eventgrid event-subscription list --source-resource-id {workspace}")] == ["es-runs"]

    run = requests.put(f"{server.url}{workspace}/experiments/e/runs/r1", params={"api-version": "2026-11-01"}, json={"properties": {"status": "Completed"}},
                       headers={"Authorization": "Bearer " + server.token}, verify=server.ca, timeout=10)
    assert run.ok
    assert [e["eventType"] for e in handler.wait(1)] == ["Microsoft.MachineLearningServices.RunCompleted"]

    az(f"eventgrid system-topic event-subscription delete {at} -n es-runs --yes")
    az(f"eventgrid system-topic delete -g {group} -n from-az --yes")
    with pytest.raises(Failure, match="ResourceNotFound"):
        az(f"eventgrid system-topic show -g {group} -n from-az")


def test_domain(az, server, group, make_handler):
    at, handler = f"-g {group} --domain-name shops", make_handler()
    made = az(f"eventgrid domain create -g {group} -n shops -l local --tags team=growth --public-network-access enabled --inbound-ip-rules 127.0.0.0/8 allow")
    assert (made["name"], made["type"], made["provisioningState"], made["autoCreateTopicWithFirstSubscription"]) == ("shops", "Microsoft.EventGrid/domains", "Succeeded", True)
    assert az(f"eventgrid domain update -g {group} -n shops --tags team=crm")["tags"] == {"team": "crm"}
    assert az(f"eventgrid domain show -g {group} -n shops")["endpoint"] == made["endpoint"]
    assert [d["id"] for d in az(f"eventgrid domain list -g {group}")] == [made["id"]] and made["id"] in {d["id"] for d in az("eventgrid domain list")}
    keys = az(f"eventgrid domain key list -g {group} -n shops")
    after = az(f"eventgrid domain key regenerate -g {group} -n shops --key-name key2")
    assert after["key1"] == keys["key1"] and after["key2"] != keys["key2"]
    mapped = az(f"eventgrid domain create -g {group} -n custom -l local --input-schema customeventschema --input-mapping-fields topic=shop eventType=kind "
                "--input-mapping-default-values subject=none dataVersion=1.0")
    assert (mapped["inputSchemaMapping"]["inputSchemaMappingType"], mapped["inputSchemaMapping"]["topic"]) == ("Json", {"sourceField": "shop"})

    berlin = az(f"eventgrid domain topic create {at} -n berlin")
    assert (berlin["id"], berlin["provisioningState"]) == (f"{made['id']}/topics/berlin", "Succeeded")
    assert az(f"eventgrid domain topic show {at} -n berlin")["id"] == berlin["id"]
    nested = az(f"eventgrid domain event-subscription create {at} -n es-all --endpoint {handler.url}")
    assert nested["type"] == "Microsoft.EventGrid/domains/eventSubscriptions"
    one = f"{at} --domain-topic-name berlin"
    assert az(f"eventgrid domain topic event-subscription create {one} -n es-nested --endpoint {handler.url}")["type"] == "Microsoft.EventGrid/domains/topics/eventSubscriptions"
    az(f"eventgrid event-subscription create -n es-rome --source-resource-id {made['id']}/topics/rome --endpoint {handler.url}")
    assert {t["name"] for t in az(f"eventgrid domain topic list {at}")} == {"berlin", "rome"}  # made with its first event subscription
    assert [es["name"] for es in az(f"eventgrid event-subscription list --source-resource-id {made['id']}/topics/rome")] == ["es-rome"]
    assert [es["name"] for es in az(f"eventgrid event-subscription list --source-resource-id {made['id']}")] == ["es-all"]
    assert [es["name"] for es in az(f"eventgrid domain event-subscription list {at}")] == ["es-all"]
    assert [es["name"] for es in az(f"eventgrid domain topic event-subscription list {one}")] == ["es-nested"]
    assert az(f"eventgrid domain topic event-subscription update {one} -n es-nested --labels a")["labels"] == ["a"]
    assert az(f"eventgrid domain event-subscription update {at} -n es-all --labels b")["labels"] == ["b"]
    shown = az(f"eventgrid domain topic event-subscription show {one} -n es-nested --include-full-endpoint-url true")
    assert shown["destination"]["endpointUrl"] == handler.url

    event = {"id": "e1", "topic": "rome", "eventType": "Shop.OrderPlaced", "subject": "orders/1", "eventTime": "2026-01-02T03:04:05Z", "dataVersion": "1", "data": {}}
    answer = requests.post(made["endpoint"], params={"api-version": "2018-01-01"}, json=[event], headers={"aeg-sas-key": after["key2"]}, verify=server.ca, timeout=10)
    assert answer.status_code == 200
    assert [e["topic"] for e in handler.wait(2)] == [f"{made['id']}/topics/rome"] * 2  # the domain's event subscription, and rome's

    az(f"eventgrid domain topic event-subscription delete {one} -n es-nested --yes")
    az(f"eventgrid domain event-subscription delete {at} -n es-all --yes")
    az(f"eventgrid domain topic delete {at} -n berlin")
    az(f"eventgrid domain delete -g {group} -n shops")
    with pytest.raises(Failure, match="ResourceNotFound"):
        az(f"eventgrid domain show -g {group} -n shops")


def test_catalogue(az):
    assert {TOPIC_TYPE, TOPICS} <= {t["name"] for t in az("eventgrid topic-type list")}
    assert az(f"eventgrid topic-type show -n {TOPIC_TYPE}")["provider"] == "Microsoft.MachineLearningServices"
    types = az(f"eventgrid topic-type list-event-types -n {TOPIC_TYPE}")
    assert len([t for t in types if t["isInDefaultSet"]]) == 5
    assert "Carillon.MachineLearning.DeploymentFailed" in {t["name"] for t in types if not t["isInDefaultSet"]}
    registered = {p["namespace"]: p["registrationState"] for p in az("provider list")}
    assert registered["Microsoft.EventGrid"] == registered["Microsoft.MachineLearningServices"] == "Registered"
    az("provider register -n Microsoft.EventGrid --wait")
    assert "topics" in {t["resourceType"] for t in az("provider show -n Microsoft.EventGrid")["resourceTypes"]}
    assert "local" in {place["name"] for place in az("account list-locations")}


def test_resources(az, group, topic):
    """The commands that know no resource type by name."""
    assert topic["id"] in {r["id"] for r in az("resource list")}
    assert [r["type"] for r in az(f"resource list -g {group}")] == ["Microsoft.EventGrid/topics"]
    assert topic["id"] in {r["id"] for r in az("resource list --resource-type Microsoft.EventGrid/topics")}
    assert az(f"resource list -g {group} --location elsewhere") == []
    assert az(f"resource show --ids {topic['id']}")["properties"]["endpoint"] == topic["endpoint"]
    assert az(f"resource tag --ids {topic['id']} --tags team=growth")["tags"] == {"team": "growth"}
    assert [r["name"] for r in az("resource list --tag team=growth") if r["resourceGroup"] == group] == ["orders"]
    az(f"resource update --ids {topic['id']} --set tags.team=crm")
    made = az(f"resource create -g {group} -n by-type --resource-type Microsoft.EventGrid/topics --is-full-object --properties", '{"location": "local", "properties": {}}')
    az(f"resource delete --ids {made['id']}")
    assert [r["tags"] for r in az(f"resource list -g {group}")] == [{"team": "crm"}]
    listed = az(f"rest --method get --url /subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.EventGrid/topics?api-version=2025-02-15")
    assert [t["name"] for t in listed["value"]] == ["orders"]


def test_roles(az, server, group, unique):
    """Without a directory of Azure's, people are named by their object id."""
    who = server.command("principal", "create", unique("az-reader"))
    scope = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}"
    az(f"role assignment create --assignee-object-id {who['objectId']} --assignee-principal-type ServicePrincipal --role Reader --scope {scope}")
    held = {a["principalId"]: a["roleDefinitionName"] for a in az(f"role assignment list --scope {scope}")}
    assert held[who["objectId"]] == "Reader"
    az(f"role assignment delete --assignee {who['objectId']} --role Reader --scope {scope}")
    assert who["objectId"] not in {a["principalId"] for a in az(f"role assignment list --scope {scope}")}
    assert az("role definition list --name Reader")[0]["roleName"] == "Reader"


# Users. Source: spec/access.md sections 3.4 and 4.

PASSWORD = "correct horse battery staple"


@pytest.fixture
def user(server, unique, tmp_path):
    """A user who may read the subscription."""
    (tmp_path / "password").write_text(PASSWORD)
    name = unique("anna") + "@example.org"
    made = server.command("principal", "create", name, "--type", "user", "--password-file", str(tmp_path / "password"))
    server.command("role", "assignment", "create", "--assignee", made["objectId"], "--role", "Reader", "--scope", f"/subscriptions/{SUBSCRIPTION}")
    return {**made, "name": name}


def of_user(server, directory, authority: str) -> Az:
    az = Az(server, directory)
    az.register(server, authority)
    az("config set core.instance_discovery=false core.login_experience_v2=off core.encrypt_token_cache=false")
    return az


def is_signed_in(az, user) -> None:
    assert az("account show")["user"] == {"name": user["name"], "type": "user"}
    assert az(f"eventgrid topic list -g {GROUP}") is not None
    with pytest.raises(Failure, match="AuthorizationFailed"):
        az(f"eventgrid topic create -g {GROUP} -n of-a-reader -l local")


def test_login_by_device_code(server, user, tmp_path):
    """az login --use-device-code, and a second token by the refresh token."""
    az = of_user(server, tmp_path, server.url)
    login = subprocess.Popen([os.environ["CARILLON_AZ"], "login", "--use-device-code", "--tenant", user["tenant"], "-o", "json"],
                             env={**az._env, "AZURE_CORE_ONLY_SHOW_ERRORS": "false"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = ""
    for line in login.stderr:
        said += line
        if found := re.search(r"open the page (\S+) and enter the code (\S+) to", said):
            Browser(server.ca).sign_in_for_device(found[1], found[2], user["name"], PASSWORD)
            break
    out, rest = login.communicate(timeout=120)
    assert login.returncode == 0, said + rest
    assert [s["id"] for s in json.loads(out)] == [SUBSCRIPTION]
    is_signed_in(az, user)
    assert az("account get-access-token --resource https://eventgrid.azure.net")["accessToken"].count(".") == 2
    server.command("principal", "revoke-tokens", user["name"])
    with pytest.raises(Failure, match="was revoked|AADSTS70008|az login"):
        az(f"eventgrid topic list -g {GROUP}")


@pytest.mark.parametrize("path", ["", "/adfs"])
def test_login_by_browser(server, user, tmp_path, path):
    """az login with the browser that the environment names, in both shapes of authority."""
    az = of_user(server, tmp_path, server.url + path)
    az._env |= {"BROWSER": f"{sys.executable} {os.path.join(os.path.dirname(__file__), 'browser.py')} %s &", "CARILLON_CA": server.ca,
                "CARILLON_TEST_USER": user["name"], "CARILLON_TEST_PASSWORD": PASSWORD}
    shown = az(f"login --tenant {user['tenant']}" if not path else "login")
    assert [s["id"] for s in shown] == [SUBSCRIPTION]
    is_signed_in(az, user)


def test_login_by_certificate(server, principal, tmp_path):
    """az login --certificate: an assertion that the key of a certificate signed."""
    make_certificate(tmp_path)
    server.command("principal", "credential", "add", principal["displayName"], "--certificate", str(tmp_path / "cert.pem"))
    az = of_user(server, tmp_path, server.url)
    shown = az(f"login --service-principal -u {principal['appId']} --tenant {principal['tenant']} --certificate {tmp_path / 'both.pem'}")
    assert [s["id"] for s in shown] == [SUBSCRIPTION] and az(f"eventgrid topic list -g {GROUP}") is not None
