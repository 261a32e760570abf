// Managing with @azure/arm-eventgrid, signed in with @azure/identity.
// Source: spec/management.md sections 2 and 10.5.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import http from "node:http";
import { after, before, test } from "node:test";
import { EventGridManagementClient } from "@azure/arm-eventgrid";
import { ClientSecretCredential } from "@azure/identity";

const subscription = "00000000-0000-0000-0000-000000000001";
const url = process.env.CARILLON_URL;
const audience = "https://management.azure.com/.default";
let client, server, hook;

async function ours(method, path, version, body) {
  const answer = await fetch(`${url}${path}?api-version=${version}`, {
    method,
    headers: { authorization: `Bearer ${process.env.CARILLON_TOKEN}`, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.json();
}

function at(credential) {
  return new EventGridManagementClient(credential, subscription, { endpoint: url, credentialScopes: audience });
}

async function all(pages) {
  const list = [];
  for await (const one of pages) list.push(one.name);
  return list;
}

before(async () => {
  const who = await ours("POST", "/providers/Carillon.Identity/principals", "2026-11-01", { name: `js-${randomUUID()}` });
  await ours("PUT", `/subscriptions/${subscription}/providers/Microsoft.Authorization/roleAssignments/${randomUUID()}`, "2022-04-01", {
    properties: { roleDefinitionId: "/providers/Microsoft.Authorization/roleDefinitions/b24988ac-6180-42a0-ab88-20f7382dd24c", principalId: who.objectId },
  });
  client = at(new ClientSecretCredential(who.tenant, who.appId, who.password, { authorityHost: url, disableInstanceDiscovery: true }));
  server = http.createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    if (request.headers["aeg-event-type"] === "SubscriptionValidation") {
      response.write(JSON.stringify({ validationResponse: JSON.parse(body)[0].data.validationCode }));
    }
    response.end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  hook = `http://127.0.0.1:${server.address().port}/hook?code=s3cret`;
});

after(() => server.close());

test("topics", async () => {
  const name = `js-${randomUUID().slice(0, 8)}`;
  await assert.rejects(client.topics.get("local", name), { statusCode: 404, code: "ResourceNotFound" });
  const made = await client.topics.beginCreateOrUpdateAndWait("local", name, { location: "local", tags: { a: "b" } });
  const again = await client.topics.beginCreateOrUpdateAndWait("local", name, { location: "local" });
  assert.equal(again.id, made.id);
  await client.topics.beginUpdateAndWait("local", name, { tags: { c: "d" } });
  assert.deepEqual((await client.topics.get("local", name)).tags, { c: "d" });
  const keys = await client.topics.listSharedAccessKeys("local", name);
  const after = await client.topics.beginRegenerateKeyAndWait("local", name, { keyName: "key2" });
  assert.equal(after.key1, keys.key1);
  assert.notEqual(after.key2, keys.key2);
  assert.ok((await all(client.topics.listByResourceGroup("local", { top: 2 }))).includes(name));
  assert.deepEqual(await all(client.topics.listBySubscription({ filter: `name eq '${name}'` })), [name]);
  await client.topics.beginDeleteAndWait("local", name);
  await client.topics.beginDeleteAndWait("local", name); // a missing one is no error
  await assert.rejects(client.topics.get("local", name), { statusCode: 404 });
});

test("event subscriptions", async () => {
  const topic = `js-${randomUUID().slice(0, 8)}`;
  const { id: source } = await client.topics.beginCreateOrUpdateAndWait("local", topic, { location: "local" });
  const begun = Date.now();
  const made = await client.eventSubscriptions.beginCreateOrUpdateAndWait(source, "es-js", {
    destination: { endpointType: "WebHook", endpointUrl: hook },
    filter: { advancedFilters: [{ operatorType: "NumberInRange", key: "data.n", values: [[1, 2.5]] }, { operatorType: "IsNotNull", key: "data.n" }] },
    labels: ["a"],
  });
  assert.ok(Date.now() - begun < 10_000, "the client waited");
  assert.equal(made.destination.endpointType, "WebHook");
  assert.deepEqual(made.filter.advancedFilters.map((f) => f.operatorType), ["NumberInRange", "IsNotNull"]);
  const updated = await client.eventSubscriptions.beginUpdateAndWait(source, "es-js", { destination: made.destination, labels: ["b"] });
  assert.deepEqual(updated.labels, ["b"]);
  assert.equal((await client.eventSubscriptions.getFullUrl(source, "es-js")).endpointUrl, hook);
  assert.deepEqual(await all(client.eventSubscriptions.listByResource("local", "Microsoft.EventGrid", "topics", topic)), ["es-js"]);
  assert.deepEqual(await all(client.topicEventSubscriptions.list("local", topic)), ["es-js"]);
  assert.ok((await all(client.eventSubscriptions.listRegionalByResourceGroup("local", "local"))).includes("es-js"));
  assert.deepEqual(await all(client.eventSubscriptions.listGlobalByResourceGroup("local")), []);
  await assert.rejects(
    client.eventSubscriptions.beginCreateOrUpdateAndWait(source, "es-refused", { destination: { endpointType: "WebHook", endpointUrl: "http://127.0.0.1:1/hook" } }),
    { statusCode: 400, code: "Url validation" });
  await client.eventSubscriptions.beginDeleteAndWait(source, "es-js");
  await client.topics.beginDeleteAndWait("local", topic);
});

test("system topics and the catalogue", async () => {
  const listed = [];
  for await (const one of client.systemTopics.listByResourceGroup("local")) listed.push(one);
  const ofDefault = listed.find((t) => t.source.endsWith("/workspaces/default"));
  assert.equal(ofDefault.topicType, "Microsoft.MachineLearningServices.Workspaces");
  const made = await client.systemTopicEventSubscriptions.beginCreateOrUpdateAndWait("local", ofDefault.name, "es-js", { destination: { endpointType: "WebHook", endpointUrl: hook } });
  assert.equal(made.filter.includedEventTypes.length, 5);
  await client.systemTopicEventSubscriptions.beginDeleteAndWait("local", ofDefault.name, "es-js");
  assert.ok((await all(client.topicTypes.list())).includes("Microsoft.EventGrid.Topics"));
  const types = await all(client.topicTypes.listEventTypes("Microsoft.MachineLearningServices.Workspaces"));
  assert.equal(types.filter((name) => name.startsWith("Microsoft.MachineLearningServices.")).length, 5);
  assert.ok(types.includes("Carillon.MachineLearning.DeploymentFailed"));
  assert.ok((await all(client.operations.list())).includes("Microsoft.EventGrid/topics/write"));
});
