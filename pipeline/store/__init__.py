"""The store: stage results by the digest of what they depend on.

`results` holds them, `keys` makes the digests, `locks` keeps builds apart, `upkeep` lists, checks and collects.
"""

from enginery.pipeline.store.results import Result, Store, describe_change, read_entry, read_history

__all__ = ["Result", "Store", "describe_change", "read_entry", "read_history"]
