"""`resnet-serve bench`: load with checked answers against a running server, and the limits.

options -> images -> reference answers -> load (closed or open loop) -> statistics -> report
                                          monitor (the server's CPU and memory) -^

The load comes from this process, or is dealt out to several.
"""
