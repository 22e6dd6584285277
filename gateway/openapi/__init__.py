"""What a gateway says of itself: an OpenAPI 3.1 document, made from descriptors and comments, and a page that shows it.

document      the whole of it
operations    one way to call one method; its `parameters`, its `responses`, its path (`paths`)
schemas       messages and enums; `wellknown` types, `constraints` that comments and options state
examples      values that a reader can try
site          `/openapi.json`, and `/docs` with what it needs
"""

from gateway.openapi.document import describe
from gateway.openapi.site import site

__all__ = ["describe", "site"]
