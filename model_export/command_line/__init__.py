"""How `resnet-export` reads its arguments; what it then does is elsewhere."""
