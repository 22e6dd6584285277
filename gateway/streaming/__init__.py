"""Server streams over HTTP."""
