"""Face of `torch.ao.quantization.fx`: the configuration objects of the graph workflow."""
