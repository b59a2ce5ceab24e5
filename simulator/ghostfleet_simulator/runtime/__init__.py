"""What makes an engine live: clocks, the loop that drives it, and the server object that everything hangs off."""
