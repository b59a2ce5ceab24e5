"""Failure injection: decides what goes wrong, with which request or with the server; performing it is others' part."""
