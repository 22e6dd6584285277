"""REST and JSON in front of any gRPC services, from their descriptors alone.

A gateway reads a FileDescriptorSet and serves what its `google.api.http` annotations say. It knows no contract and
no service; a request goes through it as through this list:

    protocol      what is refused before it is a request: sizes, slowness, malformed HTTP
    app           one request, from its path to its answer; `requests` reads headers, `records` tells how it went
    pages         what the gateway itself serves: the index, health, the API's description
    admission     who is let in
    router        path and method -> route; `template` reads the paths of annotations
    mapping       path, query and body -> request message; `slots` are places in it, `values` single values
    codec         messages <-> JSON
    backends      the gRPC call
    answers       what goes back; `errors` makes it of a google.rpc.Status

and is put together by `gateway` from `settings`, `descriptors` (the contract) and `routes` (its annotations).
"""
