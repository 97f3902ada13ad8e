"""Language models: a small synchronous protocol and the backends behind it."""
