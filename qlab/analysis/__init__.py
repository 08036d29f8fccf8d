"""Error analysis: what a quantized network does to each layer, in numbers with one meaning."""
