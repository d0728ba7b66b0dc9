"""all-MiniLM-L6-v2: sentences in, unit-length embeddings out."""
