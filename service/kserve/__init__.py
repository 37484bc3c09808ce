"""The Open Inference Protocol (KServe V2): its tensors, turned into requests and results.

Independent of how they travel: `http/` and `grpc/` are its doors.
"""
