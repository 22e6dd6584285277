"""`weft chaos`: breaks a running system on purpose while customers order, and audits it from the outside.

to break     plan (which fault hits what and when, from a seed)  faults (carries it out, and heals)
the system   house (as run.json has it)  own_house, wired (one of one's own)  proxies  deliveries
the load     customers (orders over REST)  requests (what they wanted, and were told)
to judge     audit (finds out)  quiet  desk (asks services)  sources (streams, ledger)  books (what must hold)  verdict
to tell      exposure (which faults hit open work)  report  screen
all of it    command (what can be typed)  run
"""
