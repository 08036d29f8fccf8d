"""The app's pages: they draw what the engine says. Nothing here computes."""
