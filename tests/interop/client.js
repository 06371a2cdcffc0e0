// A client of Fabric in JSON, written from docs/protocol.md alone.
"use strict";

const { randomUUID } = require("node:crypto");
const amqp = require("amqplib");

const REQUEST = 1, RESPONSE = 2, EVENT = 3, BROADCAST = 4, CANCEL = 5;

class CallFailed extends Error {
  constructor(error) {
    super(error.message);
    Object.assign(this, error);
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
