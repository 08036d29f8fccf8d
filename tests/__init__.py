"""The suite. It mirrors the source: `tests/qlab/test_x.py` tests `qlab/x.py`."""
