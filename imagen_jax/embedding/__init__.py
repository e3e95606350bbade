"""`embed`: the text embeddings of a data set, made once; see text/cache_format.py."""
