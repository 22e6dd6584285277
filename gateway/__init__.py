"""REST and JSON in front of any gRPC services, from their descriptors alone.

A gateway reads a FileDescriptorSet, or asks a server for it, and serves what its `google.api.http` annotations say.
It knows no contract and no service; a request goes through it as through this list:

    http          protocol: what is refused before it is a request (sizes, slowness, malformed HTTP), on its server
                  requests: their headers; browsers: what they are told of all answers, and which pages may call
    app           one request, from its path to its answer; `records` tell how it went
    pages         what the gateway itself serves: the index, `health`, the API's description
    routing       router: path and method -> route; template: reads the paths of annotations
    admission     gate: who is let in, by trust in tokens (query_token: those of clients that cannot send headers) and
                  by rates, which are buckets of users and addresses; protection: the settings of all that
    messages      mapping: path, query and body -> request message; slots are places in it, values single values
                  codec: messages <-> JSON; reading makes readers of types, writing converters, plain those of values
                  raw: bodies that are no JSON
    backends      the gRPC call
    streaming     streams: the messages of a server stream, in one of the formats; positions are where they go on
    http          answers: what goes back, and whether the client has it already (etags); compression makes it small
    errors        answers made of a google.rpc.Status
    openapi       the description of all that (`/openapi.json`, `/docs`), from descriptors and their comments

and is put together by `gateway` from `settings`, the contract (`contract`: sources says where it comes from,
descriptors or reflection; comments) and `routes` (its annotations).
"""
