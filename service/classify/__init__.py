"""`resnet-serve classify`: labels of many images, in process or from a server, into a file.

paths -> sources (images, one after another) -> `Classifier` or `Client` -> rows -> journal -> file
"""
