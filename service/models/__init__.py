"""The served models: files, loading, states, lookup."""
