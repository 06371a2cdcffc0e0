"""Fleets that are described elsewhere: compose files, systemd units, Kubernetes manifests. Each reads into a ``Draft``."""
