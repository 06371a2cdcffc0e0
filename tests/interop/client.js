// A client of Fabric in JSON, written from docs/protocol.md alone.
"use strict";

const { randomUUID } = require("node:crypto");
const amqp = require("amqplib");

const REQUEST = 1, RESPONSE = 2, EVENT = 3, BROADCAST = 4, CANCEL = 5, PART = 6, END = 7, CREDIT = 8;

class CallFailed extends Error {
  constructor(error) {
    super(error.message);
    Object.assign(this, error);
  }
}

/** What has come of a stream and was not read. */
class Flow {
  constructor() {
    Object.assign(this, { parts: [], due: 1, ended: false, error: null, wake: () => {} });
  }

  take(message) {
    if (this.ended) return;
    const number = message.attempt ?? 1;
    if (message.type === RESPONSE || (message.type === END && number === this.due)) {
      this.ended = true;
      if (message.error) this.error = new CallFailed(message.error);
    } else if (message.type === PART && number === this.due) {
      this.due++;
      this.parts.push(message.payload ?? null);
    } else {
      this.ended = true;
      this.error = new Error(`part ${this.due} was lost`);
    }
    this.wake(true);
  }

  news(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), milliseconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve(true);
      };
    });
  }
}

class Client {
  static async connect(url, namespace, name) {
    const client = new Client();
    client.namespace = namespace;
    client.name = name;
    client.instance = `${name}-${randomUUID()}`;
    client.address = `reply.${client.instance}`;
    client.waiting = new Map();
    client.streams = new Map();
    client.announcements = [];
    client.contentTypes = new Set();
    client.connection = await amqp.connect(url);
    client.channel = await client.connection.createConfirmChannel();
    const exchanges = [["rpc", "direct"], ["events", "topic"], ["broadcast", "fanout"], ["discovery", "topic"]];
    for (const [exchange, kind] of exchanges) {
      await client.channel.assertExchange(`${namespace}.${exchange}`, kind, { durable: true });
    }
    const { queue } = await client.channel.assertQueue("", { exclusive: true, durable: false, arguments: { "x-max-priority": 3 } });
    await client.channel.bindQueue(queue, `${namespace}.rpc`, client.address);
    await client.channel.consume(queue, (delivery) => client.receive(delivery), { noAck: true });
    client.channel.on("return", (returned) => {
      const id = JSON.parse(returned.content).id;
      client.settle(id, (wait) => wait.reject(new Error(`nobody there: ${returned.fields.routingKey}`)));
    });
    return client;
  }

  message(type, to, method, fields) {
    return { id: randomUUID(), type, from: this.name, instance: this.instance, to, method, priority: 1, ...fields };
  }

  send(exchange, key, message, options) {
    const body = Buffer.from(JSON.stringify(message));
    const properties = { contentType: "application/json", priority: message.priority, ...options };
    return new Promise((resolve, reject) =>
      this.channel.publish(`${this.namespace}.${exchange}`, key, body, properties, (error) => (error ? reject(error) : resolve())),
    );
  }

  receive(delivery) {
    this.contentTypes.add(delivery.properties.contentType);
    const message = JSON.parse(delivery.content);
    if (message.method === "fabric.up") {
      this.announcements.push(message.payload);
      for (const id of [...this.waiting.keys()]) this.settle(id, (wait) => wait.announced?.(message.payload), wait => wait.announced);
      return;
    }
    const flow = this.streams.get(message.correlation_id);
    if (flow) return flow.take(message);
    if (message.type !== RESPONSE) return;
    this.settle(message.correlation_id, (wait) =>
      message.error ? wait.reject(new CallFailed(message.error)) : wait.resolve(message.payload),
    );
  }

  settle(id, how, which = () => true) {
    const wait = this.waiting.get(id);
    if (!wait || !which(wait)) return;
    clearTimeout(wait.timer);
    this.waiting.delete(id);
    how(wait);
  }

  expect(id, seconds, extra = () => ({})) {
    const answer = new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.settle(id, (wait) => wait.reject(new Error("no answer in time"))), seconds * 1000);
      this.waiting.set(id, { resolve, reject, timer, ...extra(resolve) });
    });
    answer.catch(() => {}); // it may fail before whoever asked has come to wait for it
    return answer;
  }

  /** An instance of the service that takes calls. */
  async find(service, seconds = 5) {
    const question = this.message(BROADCAST, "", "fabric.who", { priority: 3, reply_to: this.address });
    const answer = this.expect(question.id, seconds, (resolve) => ({
      announced: (instance) => resolve(instance),
    }));
    await this.send("discovery", `who.service.${service}`, question, { mandatory: true });
    return answer;
  }

  async call(instance, method, payload, seconds = 5) {
    const request = this.message(REQUEST, instance.service, method, {
      payload,
      reply_to: this.address,
      deadline: Date.now() / 1000 + seconds,
    });
    const answer = this.expect(request.id, seconds);
    answer.id = request.id;
    answer.cancel = () =>
      this.send("rpc", instance.id, this.message(CANCEL, instance.service, method, { correlation_id: request.id, priority: 2 }));
    await this.send("rpc", instance.id, request, { mandatory: true });
    return answer;
  }

  /** The parts of an answer, one after the other. */
  async *stream(instance, method, payload, { window = 8, seconds = 20 } = {}) {
    const request = this.message(REQUEST, instance.service, method, {
      payload,
      reply_to: this.address,
      deadline: Date.now() / 1000 + seconds,
      headers: { "fabric.window": window },
    });
    const tell = (type, fields) =>
      this.send("rpc", instance.id, this.message(type, instance.service, method, { correlation_id: request.id, priority: 2, ...fields }));
    const flow = new Flow();
    this.streams.set(request.id, flow);
    let used = 0, granted = window;
    try {
      await this.send("rpc", instance.id, request, { mandatory: true });
      for (;;) {
        while (flow.parts.length > 0) {
          used++;
          if (granted - used <= window / 2) {
            granted = used + window;
            await tell(CREDIT, { payload: granted });
          }
          yield flow.parts.shift();
        }
        if (flow.ended && flow.error) throw flow.error;
        if (flow.ended) return;
        if (Date.now() / 1000 > request.deadline) throw new Error("the stream did not end in time");
        if (!(await flow.news(1000))) await tell(CREDIT, { payload: granted });
      }
    } finally {
      this.streams.delete(request.id);
      if (!flow.ended) await tell(CANCEL);
    }
  }

  async publish(topic, payload) {
    const event = this.message(EVENT, topic, topic, { payload });
    await this.send("events", topic, event, { deliveryMode: 2, messageId: event.id });
    return event.id;
  }

  broadcast(topic, payload) {
    return this.send("broadcast", topic, this.message(BROADCAST, topic, topic, { payload }));
  }

  async close() {
    await this.connection.close();
  }
}

module.exports = { Client, CallFailed };
