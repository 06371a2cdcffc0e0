"""The reference fleet: the back end of a to-do application as fifteen services, each a process of its own."""
