"""Renders texts from templates for other services."""
