"""Files and what is written in them: paths, JSON, digests."""
