"""RabbitMQ nodes for tests, benchmarks and the demo: found or started, harmed, and left as they were."""
