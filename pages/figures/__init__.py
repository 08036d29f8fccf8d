"""Charts: pure functions from numbers the engine gave to plotly figures."""
