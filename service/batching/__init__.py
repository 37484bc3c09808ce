"""From single images to batches: admission, queueing, batching and the worker threads."""
