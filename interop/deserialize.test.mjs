// The five events of a workspace, as test_delivered.py received them, through the
// deserializer of @azure/eventgrid. What each must carry is read from the SDK's own
// description of the five data types. Source: spec/workspace.md section 2.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { test } from "node:test";
import { EventGridDeserializer, isSystemEvent } from "@azure/eventgrid";

const sdk = createRequire(import.meta.url).resolve("@azure/eventgrid");
const inSDK = createRequire(sdk);
const mappers = inSDK(path.join(path.dirname(sdk), "generated/models/mappers.js"));
const serializer = inSDK("@azure/core-client").createSerializer(mappers);
const deserializer = new EventGridDeserializer();

const five = ["ModelRegistered", "ModelDeployed", "RunCompleted", "RunStatusChanged", "DatasetDriftDetected"];
const jsTypes = { String: "string", Number: "number", Dictionary: "object" };

// delivered reads the bodies of the deliveries in one schema.
function delivered(schema) {
  return JSON.parse(readFileSync(path.join(process.env.CARILLON_DELIVERED, `${schema}.json`), "utf8"));
}

// checkData compares the data of an event with the SDK's type of that name.
function checkData(name, data) {
  const mapper = mappers[`MachineLearningServices${name}EventData`];
  assert.ok(mapper, `the SDK has no type for ${name}`);
  const fields = Object.entries(mapper.type.modelProperties);
  assert.ok(fields.length >= 4);
  for (const [field, { serializedName, type }] of fields) {
    const want = jsTypes[type.name];
    assert.ok(want, `${name}.${field} is a ${type.name}, which this test does not know`);
    assert.equal(typeof data[serializedName], want, `${name}.${serializedName}`);
    assert.notEqual(data[serializedName], null, `${name}.${serializedName}`);
  }
  serializer.serialize(mapper, data, name); // throws where a required field is missing or has another type
  for (const time of ["startTime", "endTime"]) {
    if (time in data) assert.ok(!Number.isNaN(Date.parse(data[time])), `${name}.${time} is no time: ${data[time]}`);
  }
  assert.match(data.sequencer, /^[0-9a-f]{32}$/);
  assert.equal(typeof data.etag, "string");
}

test("deserializeEventGridEvents", async (t) => {
  const events = [];
  for (const body of delivered("eventgrid")) events.push(...(await deserializer.deserializeEventGridEvents(body)));
  for (const name of five) {
    await t.test(name, () => {
      const type = `Microsoft.MachineLearningServices.${name}`;
      const matching = events.filter((event) => isSystemEvent(type, event));
      assert.ok(matching.length > 0, `no ${type} among ${events.map((e) => e.eventType)}`);
      for (const event of matching) {
        assert.ok(event.eventTime instanceof Date && !Number.isNaN(event.eventTime.getTime()));
        assert.equal(event.dataVersion, "2");
        for (const member of ["id", "subject", "topic"]) assert.equal(typeof event[member], "string", member);
        checkData(name, event.data);
      }
    });
  }
});

test("deserializeCloudEvents", async (t) => {
  const events = [];
  for (const body of delivered("cloudevents")) events.push(...(await deserializer.deserializeCloudEvents(body)));
  for (const name of five) {
    await t.test(name, () => {
      const type = `Microsoft.MachineLearningServices.${name}`;
      const matching = events.filter((event) => isSystemEvent(type, event));
      assert.ok(matching.length > 0, `no ${type} among ${events.map((e) => e.type)}`);
      for (const event of matching) {
        assert.ok(event.time instanceof Date && !Number.isNaN(event.time.getTime()));
        for (const member of ["id", "subject", "source"]) assert.equal(typeof event[member], "string", member);
        assert.equal(event.extensionAttributes.sequence, event.data.sequencer);
        checkData(name, event.data);
      }
    });
  }
});
