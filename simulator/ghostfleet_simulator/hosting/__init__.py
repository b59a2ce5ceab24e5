"""Servers on their sockets: what one needs to be served, so that a process can host one or many in one event loop."""
