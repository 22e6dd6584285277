"""Orders, and the flow that takes each from the customer to the door."""
