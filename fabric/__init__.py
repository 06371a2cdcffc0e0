"""Python services that talk over RabbitMQ and come up together."""

__version__ = "0.1.0"
