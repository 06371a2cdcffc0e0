// What the test asks for, one fact after the other, as one JSON document on standard output.
"use strict";

const { Client } = require("./client.js");

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return { message: error.message, kind: error.kind, type: error.type, code: error.code, details: error.details };
  }
  throw new Error("it did not fail");
}

/** Up to so many parts, then the rest is not wanted; and how it ended. */
async function read(parts, limit = Infinity) {
  const found = [];
  try {
    for await (const part of parts) {
      found.push(part);
      if (found.length >= limit) break;
    }
  } catch (error) {
    return { found, message: error.message, kind: error.kind, code: error.code };
  }
  return { found };
}

async function main(url, namespace) {
  const client = await Client.connect(url, namespace, "node-client");
  const facts = {};
  try {
    const desk = await client.find("interop-desk");
    facts.found = { service: desk.service, state: desk.state, idempotent: desk.methods.add.idempotent, contract: desk.metadata.contract };
    facts.sum = await client.call(desk, "add", { a: 2, b: 3 });
    const many = [];
    for (let n = 0; n < 50; n++) many.push(client.call(desk, "add", { a: n, b: 1 }));
    facts.many = await Promise.all(many);
    facts.refused = await failure(client.call(desk, "refuse", { why: "closed" }));
    facts.invalid = await failure(client.call(desk, "add", { a: "x", b: 1 }));
    facts.noMethod = await failure(client.call(desk, "nothing", {}));
    facts.late = await failure(client.call(desk, "add", { a: 1, b: 1 }, -1));
    facts.gone = await failure(client.call({ service: "interop-desk", id: "nobody" }, "add", { a: 1, b: 1 }));
    facts.stream = await read(client.stream(desk, "count", { upto: 500 }, { window: 4 }));
    facts.failing = await read(client.stream(desk, "count", { upto: 500, fail_at: 6 }));
    facts.left = await read(client.stream(desk, "count", { upto: 1e9 }, { window: 4 }), 3);
    facts.once = await failure(client.call(desk, "count", { upto: 3 }));
    facts.whole = await read(client.stream(desk, "add", { a: 1, b: 2 }));
    facts.contract = await client.call(desk, "fabric.contract");
    await client.broadcast("interop.shout", { id: 1 });
    facts.event = await client.publish("interop.created", { id: 7, title: "from node" });
    facts.contentTypes = [...client.contentTypes];
  } finally {
    await client.close();
  }
  console.log(JSON.stringify(facts));
}

main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(error);
  process.exit(1);
});
