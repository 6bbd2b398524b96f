"""Source to hub: routing changes to companies, packing them into messages, and the drain that does it."""
