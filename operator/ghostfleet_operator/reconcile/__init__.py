"""One pass over one object: read, plan, apply, push, observe, report. Depends on what is, never on what happened."""
