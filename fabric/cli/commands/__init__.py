"""One module a command. Each has ``register(app)``; what is heavy it imports when it is run."""
