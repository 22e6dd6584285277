"""Charges and refunds at the payment provider, one payment an order."""
