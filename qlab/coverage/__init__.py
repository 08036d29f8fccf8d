"""Which names of the reference qlab has, and what each of them does.

The names are a committed list (`reference_api.csv`); everything else is read off the objects
themselves: docstrings, the registry, the table of kernels, and what constructors accept.
"""

from qlab.coverage.names import Name, names
from qlab.coverage.table import table

__all__ = ["Name", "names", "table"]
