"""Stored runs and what is made of them: statistics, figures, reports. Needs no torch."""
