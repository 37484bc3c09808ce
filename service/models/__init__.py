"""The models that are served: files, loading, states, look-up."""
