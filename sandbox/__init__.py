"""A stand-in for the company that takes the payments: an HTTP API and a ledger of its own.

It is a process of its own and shares nothing with the services, so that its ledger can be held against
theirs. What it does is chosen by the card's token:

- `tok_ok`: the charge succeeds.
- `tok_declined`: the charge is declined.
- `tok_slow`: the charge succeeds; the answer comes after 2 seconds.
- `tok_timeout`: the charge succeeds; the first answer never comes, a repeat of the request is answered.
- any other: the charge is declined, `unknown_token`.

`POST /control/outage` with `{"seconds": 5}` makes it refuse all charges and refunds with 503 for so long, by at most
10 minutes; 0 ends that. With `"answers_lost": true` it does what it is asked meanwhile, and only the answers are lost.
"""
