"""`resnet-serve bench`: puts load on a running server, checks its answers, measures the limits.

options -> images -> reference answers -> load (closed or open loop) -> statistics -> report
                                          monitor (the server's CPU and memory) -^

The load is sent by this process or by several others.
"""
