"""Contracts as plain data: described, compared, and written as AsyncAPI."""
