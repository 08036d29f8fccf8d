"""Face of `torch.ao.ns.fx`."""
