"""Runs beside each other: what is computed, and the page, JSON and Markdown that tell of it."""
