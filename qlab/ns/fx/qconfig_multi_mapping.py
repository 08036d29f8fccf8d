"""Face of `torch.ao.ns.fx.qconfig_multi_mapping`."""

from qlab.qconfig.multi_mapping import QConfigMultiMapping

__all__ = ["QConfigMultiMapping"]
