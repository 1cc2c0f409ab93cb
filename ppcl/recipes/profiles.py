"""Changes to the recipe's fields for faces and for the smaller profiles, as dotted keys.

`demo` trains a small net on drawn pictures (`python -m ppcl reproduce`; the README has its results and time). `tiny` is
for tests: everything runs, nothing is learnt.
"""

# Supplement §2.2. The backbone is a residual network of the kind trained on CASIA-WebFace, with a margin softmax.
FACE = {
    "data.uncut": 250,  # not published: LFW and CASIA-WebFace as distributed
    "augmentation.erase": 0.3,  # not published
    "input.height": 112,  # not published
    "input.width": 112,  # not published
    "glrec.crops": "random",  # §3: partial faces are cut at random
    "glrec.colour": 0.1,  # not published
    "glrec.view_scale": (0.96, 1.04),  # not published: aligned faces are framed alike
    "glrec.view_shift": 0.03,  # not published
    "backbone.architecture": "face34",  # not published
    "backbone.weights": "none",  # not published: from scratch
    "backbone.softmax": "cosface",  # not published
    "backbone.triplet_weight": 0.0,  # not published: the margin softmax alone
    "backbone.optimiser": "sgd",  # not published, as the joint stage
    "backbone.epochs": 20,  # not published
    "backbone.decay_epochs": 6,  # not published
    "backbone.lr": 0.1,  # not published
    "backbone.batch": 256,  # not published
    "backbone.identities": 64,  # not published
    "backbone.views": "moved",  # not published: aligned faces are not shifted by pixels
    "joint.optimiser": "sgd",  # §2.2
    "joint.lr": 1e-1,  # §2.2
    "joint.batch": 200,  # §2.2
    "joint.identities": 50,  # not published: four views of each make 200
    "joint.epochs": 15,  # not published: three rates
    "joint.decay_epochs": 5,  # §2.2
    "joint.warmup_epochs": 1,  # not published: without it σ collapses (METHOD.md §6)
    "joint.crloc_lr_fraction": 0.1,  # not published: 0.01 at most, for the same reason
    "joint.sigma": 0.1,  # not published
    "joint.whole_box_share": 0.4,  # not published
    "joint.cycle_weight": 4.0,  # not published
    "joint.contrast_pairs": 2,  # not published
    "joint.contrast_weight": 0.3,  # not published: with SGD more of it disturbs the embedding
}
# Half of the published epochs, phases in proportion; for the GLRec of people all of them (why: notebook 06).
DEMO = {
    "scale": "demo",
    "input.height": 128,
    "input.width": 64,
    "augmentation.erase": 0.3,
    "backbone.architecture": "small",
    "backbone.weights": "none",
    "backbone.epochs": 60,
    "backbone.decay_epochs": 20,
    "backbone.views": "moved",
    "joint.epochs": 20,
    "selection.heldout": 1 / 6,
}
TINY = {
    "scale": "tiny",
    "input.height": 64,
    "input.width": 32,
    "glrec.epochs": 4,
    "glrec.constant_epochs": 2,
    "glrec.batch": 16,
    "glrec.width": 8,
    "backbone.epochs": 3,
    "backbone.decay_epochs": 1,
    "backbone.batch": 8,
    "backbone.identities": 4,
    "joint.epochs": 1,
    "joint.batch": 16,
    "joint.identities": 4,
    "joint.glrec_batch": 8,
    "matching.shortlist": 4,
    "selection.heldout": 0.3,
}
FACE_DEMO = {
    "input.height": 64,
    "input.width": 64,
    "glrec.epochs": 80,
    "glrec.constant_epochs": 30,
    "backbone.softmax": "plain",  # cross-entropy and triplet do better than a margin at this size (METHOD.md §6)
    "backbone.triplet_weight": 1.0,
    "backbone.optimiser": "adam",
    "backbone.lr": 5e-4,
    "backbone.epochs": 48,
    "backbone.decay_epochs": 16,
    "backbone.batch": 64,
    "backbone.identities": 16,
    "joint.lr": 0.01,  # 0.1 and 0.03 disturb what the backbone has learnt at this batch
    "joint.batch": 64,
    "joint.identities": 16,
    "joint.epochs": 20,
    "joint.decay_epochs": 7,
    "joint.crloc_lr_fraction": 1.0,
    "partial_lfw.queries": 2,
}
FACE_TINY = {"input.height": 32, "input.width": 32, "joint.warmup_epochs": 0}
CHANGES = {
    ("person", "paper"): {},
    ("person", "demo"): DEMO,
    ("person", "tiny"): DEMO | TINY,
    ("face", "paper"): FACE,
    ("face", "demo"): FACE | DEMO | FACE_DEMO,
    ("face", "tiny"): FACE | DEMO | FACE_DEMO | TINY | FACE_TINY,
}
