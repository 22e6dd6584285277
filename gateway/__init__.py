"""REST and JSON in front of any gRPC services, from their descriptors alone.

A gateway reads a FileDescriptorSet, or asks a server for it, and serves what its `google.api.http` annotations say.
It knows no contract and no service; a request goes through it as through this list:

    protocol      what is refused before it is a request: sizes, slowness, malformed HTTP
    app           one request, from its path to its answer; `requests` reads headers, `records` tells how it went
    pages         what the gateway itself serves: the index, `health`, the API's description
    admission     who is let in: `trust` in tokens, `rates` of `buckets` by user and by `addresses`
    router        path and method -> route; `template` reads the paths of annotations
    mapping       path, query and body -> request message; `slots` are places in it, `values` single values
    codec         messages <-> JSON; `reading` makes readers of types, `writing` converters, `plain` those of values
    backends      the gRPC call
    streams       the messages of a server stream, written in one of the `formats`; `positions` are where they go on,
                  `query_token` is for clients that cannot send headers
    raw           bodies that are no JSON
    browsers      what browsers are told of all answers, and which pages may call
    answers       what goes back, and whether the client has it already (`etags`); `errors` makes it of a
                  google.rpc.Status, `compression` makes it small
    openapi       the description of all that (`/openapi.json`, `/docs`), from descriptors and their `comments`

and is put together by `gateway` from `settings` (of safety: `protection`), `sources` (where the contract comes
from: `descriptors`, `reflection`) and `routes` (its annotations).
"""
