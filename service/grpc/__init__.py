"""The Open Inference Protocol over gRPC, with Triton's definition of it.

Only `app.py` imports it, and only if it is asked for: gRPC is an extra.
"""
