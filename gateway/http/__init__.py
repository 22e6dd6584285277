"""HTTP as it comes in and goes out: the protocol, headers, whole answers."""
