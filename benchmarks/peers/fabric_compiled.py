"""Fabric as ``benchmarks.peers.fabric``, from ``build/compiled``."""

from __future__ import annotations

from benchmarks.peers.fabric import connect, serve
from fabric import caller

__all__ = ["connect", "serve"]

if str(caller.__file__).endswith(".py"):
    raise ImportError(f"{caller.__file__} is not compiled")
