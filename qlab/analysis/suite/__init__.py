"""The numeric suite: two forms of a model compared tensor by tensor, as `qlab.ns` offers it."""
