"""Sends e-mail for other services."""
