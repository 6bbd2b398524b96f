"""Hub to company databases: the watermark, one company's transaction, and the drain over all of them."""
