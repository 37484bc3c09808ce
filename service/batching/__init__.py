"""From single images to batches: who is let in, and who runs together."""
