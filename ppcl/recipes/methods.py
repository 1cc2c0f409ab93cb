"""The rows of the result table: what each one trains, and how it is matched."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace


class RecipeError(ValueError):
    """A recipe, key, row or value that does not exist, with the nearest one that does."""


def unknown(kind: str, name: str, known: Iterable[str], more: str = "") -> RecipeError:
    """The error for a name that does not exist."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return RecipeError(f"unknown {kind} {name!r}: did you mean {near[0]!r}?{more}")


@dataclass(frozen=True)
class Method:
    """A row of the result table: what is trained and how it is matched. All rows share data, steps and backbone."""

    views: str = "crops"  # "whole", or "crops": two whole and two partial views an identity
    layout: str = "glrec"  # how a picture gets onto the canvas: "stretch", "pad" (ratio kept), "pad-queries" or "glrec"
    # what is compared beside the embeddings: "none"; regions at q = p ("same"), located by CRLoc, "untrained" (random φ
    # and prior) or "trained", or "true" ones; canvases by "stripes" or "cells"; the best placement's "embedding"
    region: str = "none"
    triplet: bool = False  # PP-Triplet
    contrast: bool = False  # our contrast term: on what is compared, or on embeddings
    placements: bool = False  # several placements a query, or one
    average: bool = False  # region distances of several placements are averaged; otherwise the best one counts
    checkpoint: str = ""  # the trained row whose checkpoint it uses; its own if empty
    stage: str = "joint"  # whose checkpoint that is; "backbone": stage 2 by itself
    # what an ablation leaves out
    cycle: bool = True  # PP-Cycle
    geometry: bool = True  # the loss on pairs whose answer is known
    prior: bool = True  # CRLoc's positional prior
    stripes: int = 3  # of a region descriptor; 1: one mean
    whiten: bool = True  # region descriptors are standardised
    oracle: bool = False  # queries lie where they truly belong: no method

    @property
    def locates(self) -> bool:
        """True for rows that compare a region of the query with one of the gallery picture."""
        return self.region in ("same", "untrained", "trained")


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
    "no-prior-no-cycle": replace(_PPCL, prior=False, cycle=False),  # what PP-Cycle is worth where it has to locate
    "no-stripes": replace(_PPCL, stripes=1),
    "no-whitening": replace(_PPCL, whiten=False),
    "oracle-placement": replace(_PPCL, placements=False, oracle=True, checkpoint="ppcl"),
}
# Rows made by `train joint --method ROW` alone, also those on another row's checkpoint (which gets their fusion weight)
CONTROLS = {
    "trained-same-location": replace(_PPCL, region="same", cycle=False, geometry=False),
    "oracle-region": replace(_PPCL, region="true", cycle=False, geometry=False),
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
