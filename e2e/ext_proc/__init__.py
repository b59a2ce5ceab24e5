"""Asks an endpoint picker where a request goes, as Envoy would: the ext_proc exchange, without Envoy."""
