"""The protocol in one process, crashed at every boundary; what happens follows from a seed."""
