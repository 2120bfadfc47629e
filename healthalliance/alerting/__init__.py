"""Alerts: who crossed into a band, whose turn it is, and how people are told."""
