"""The networks: GLRec, the backbones, CRLoc, and the three together."""
