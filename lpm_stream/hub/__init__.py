"""The hub: the partitioned, ordered, replayable log between source and companies."""
