"""Shipments, one an order."""
