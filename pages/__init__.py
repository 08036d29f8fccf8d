"""The app's pages: they draw what the engine says. Nothing here computes."""

import os

# Idle threads of torch sleep instead of spinning: on a busy machine small networks then run some
# twenty times faster. It counts only if set before torch is loaded, so here, before any page or
# what it shares with others is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
