"""Models that the reference quantized, held in memory, as the same qlab models.

Nothing of the reference is imported: the objects given are read by what they are called and by
what they answer, so this works as long as someone can still load the old model.
"""

from qlab.io.migrate.model import migrate

__all__ = ["migrate"]
