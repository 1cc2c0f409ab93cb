"""The rows of the result table: training and matching of each."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace


class RecipeError(ValueError):
    """A recipe, key, row or value that does not exist, with the nearest one that does."""


def unknown(kind: str, name: str, known: Iterable[str], more: str = "") -> RecipeError:
    """The error for a name that does not exist."""
    same_case = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), same_case, n=1, cutoff=0)
    return RecipeError(f"unknown {kind} {name!r}: did you mean {same_case[near[0]]!r}?{more}")


@dataclass(frozen=True)
class Method:
    """A row of the result table: its training and matching. All rows share data, number of steps and backbone."""

    views: str = "crops"  # an identity's: four whole ("whole"), or two whole and two partial ("crops")
    layout: str = "glrec"  # how a picture gets onto the canvas: "stretch", "pad" (ratio kept), "pad-queries" or "glrec"
    # compared beside embeddings: "none"; regions at q = p ("same"), located by CRLoc, "untrained" (random φ, initial τ
    # and σ) or "trained", or "true" ones; canvases, by "stripes" or "cells"; the best placement's "embedding"
    region: str = "none"
    triplet: bool = False  # PP-Triplet
    contrast: bool = False  # our contrast term, on regions or canvases; for region "none" on embeddings
    placements: bool = False  # several placements of each query; otherwise one
    average: bool = False  # region distances of several placements are averaged; otherwise the best one counts
    checkpoint: str = ""  # the trained row whose checkpoint it uses; its own if empty
    stage: str = "joint"  # stage of that checkpoint; "backbone": stage 2 by itself
    # left out by ablations
    cycle: bool = True  # PP-Cycle
    geometry: bool = True  # the loss on pairs with a known true region
    prior: bool = True  # CRLoc's positional prior
    stripes: int = 3  # of a region descriptor, or of the canvas; 1: one mean
    whiten: bool = True  # region descriptors are standardised
    oracle: bool = False  # queries are placed by their true boxes

    @property
    def locates(self) -> bool:
        """True for rows that compare a region of the query with one of the gallery picture."""
        return self.region in ("same", "untrained", "trained")

    @property
    def needs_truth(self) -> bool:
        """True for rows that need a truth, of boxes or regions, which photographs do not have."""
        return self.oracle or self.region == "true"


METHODS = {
    "backbone": Method(views="whole", layout="stretch"),
    "backbone+crops": Method(layout="stretch"),
    "backbone+crops+pad": Method(layout="pad"),
    "+glrec": Method(),
    "+glrec@7": Method(placements=True, checkpoint="+glrec"),
    "same-location": Method(region="same", placements=True, checkpoint="+glrec"),
    "untrained-crloc": Method(region="untrained", placements=True, checkpoint="+glrec"),
    "+crloc": Method(region="trained", placements=True),
    "ppcl@1": Method(region="trained", triplet=True, contrast=True, checkpoint="ppcl"),
    "ppcl": Method(region="trained", triplet=True, contrast=True, placements=True),
}
_PPCL = METHODS["ppcl"]
ABLATIONS = {
    "no-crloc": replace(_PPCL, region="same", checkpoint="ppcl"),  # the same weights, matched at q = p
    "no-cycle": replace(_PPCL, cycle=False),
    "no-geometry": replace(_PPCL, geometry=False),
    "no-triplet": replace(_PPCL, triplet=False),
    "no-contrast": replace(_PPCL, contrast=False),
    "no-prior": replace(_PPCL, prior=False),
    "no-prior-no-cycle": replace(_PPCL, prior=False, cycle=False),  # against no-prior: PP-Cycle without a prior
    "no-stripes": replace(_PPCL, stripes=1),
    "no-whitening": replace(_PPCL, whiten=False),
    "oracle-placement": replace(_PPCL, placements=False, oracle=True, checkpoint="ppcl"),
}
# Rows made only by `train joint --method ROW`; if they use another row's checkpoint, it only adds their fusion weight
CONTROLS = {
    "trained-same-location": replace(_PPCL, region="same", cycle=False, geometry=False),
    "oracle-region": replace(_PPCL, region="true", cycle=False, geometry=False),
    "ppcl@true-region": replace(_PPCL, region="true", checkpoint="ppcl"),
    "pad+contrast": Method(layout="pad", contrast=True),
    "+glrec+contrast": Method(contrast=True, placements=True),
    "pad+stripes": Method(layout="pad", region="stripes", stripes=6, contrast=True),
    "+glrec+stripes": Method(region="stripes", stripes=6, contrast=True, placements=True),
    "pad-queries": Method(layout="pad-queries"),  # gallery pictures are stretched
    "dsr": Method(layout="pad", region="cells", checkpoint="backbone+crops+pad"),
    "+glrec@best": Method(region="embedding", placements=True, checkpoint="+glrec"),
    "ppcl@mean": replace(_PPCL, average=True, checkpoint="ppcl"),
}
ABLATIONS |= CONTROLS
ABLATIONS["stage-2"] = Method(views="whole", layout="stretch", stage="backbone")  # before the joint stage
METHODS |= ABLATIONS


def method(name: str) -> Method:
    """The row of that name; RecipeError names the nearest one."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def trained_by(name: str) -> str:
    """The row whose training gives the checkpoint that `name` uses."""
    return method(name).checkpoint or name
