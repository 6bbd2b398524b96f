"""The feed of transaction detail records (TDRs) of emergency calls; nothing else knows what a TDR is."""
