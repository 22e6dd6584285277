"""User: who may call, by accounts, passwords, sessions and the tokens that they give."""
