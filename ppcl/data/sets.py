"""The data sets, one record each: folders, names of files, published counts, test protocol, source.

To add a set, add a record. Nothing else in the library tests a set's name. This module imports nothing heavy, so that
the command line can list the sets.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """A part of a set: the names of its folder in circulation, and the published numbers of pictures and people."""

    folders: tuple[str, ...] = (".",)  # below the set's folder; ".": that folder itself
    pictures: int | None = None
    identities: int | None = None  # distractors aside


@dataclass(frozen=True)
class DataSet:
    """A data set, made of parts: `train`, `query`, `gallery` and others; a set without a query has pairs, in `all`."""

    name: str
    task: str  # "person", "face", or "any": the user says which
    folders: tuple[str, ...]  # names of its folder below --data, the usual one first; none: always made
    parts: dict[str, Part]
    pattern: str = ""  # of file names, without the ending; groups: `identity`, perhaps `camera`; or `person`, a name.
    example: str = ""  # of such a name. No pattern: each person has a folder
    protocol: str = ""  # "standard": the whole gallery; "shots": single- and all-shot; "verification"; "": no test
    cameras: bool = False  # matches of the query's own camera are ignored
    partial: bool = False  # queries are partial
    distractors: bool = False  # identity 0 stands for people without a query: they stay in the gallery alone
    made_from: str = ""  # a set whose people the test is made of, by `partial_protocol`, where it lies nowhere itself
    split: bool = False  # people are divided into `train` and `test` by their names
    drawn: str = ""  # what `data synthesise` draws in its layout: "people" or "faces"
    source: str = ""
    variants: dict[str, dict[str, Part]] = field(default_factory=dict)  # other `parts`, by the recipe's data.<name>

    def of(self, task: str | None) -> bool:
        """True if the set can be used for a task; every set can for None."""
        return task is None or self.task in (task, "any")

    @property
    def first_protocol(self) -> str:
        """Protocol, as the result table names it, of the metrics in `summary`."""
        return "single-shot" if self.protocol == "shots" else self.protocol

    @property
    def summary(self) -> tuple[str, ...]:
        """Metrics in a run's summary and the README's tables."""
        shots = ("rank-1", *["mAP"] * self.partial, *["TAR@FAR=1e-3"] * (self.task == "face"))
        return {"standard": ("rank-1",), "shots": shots, "verification": ("accuracy",)}.get(self.protocol, ())

    @property
    def how_to_get(self) -> str:
        """Source of the set, and what can replace it."""
        if self.split:
            return "give your own pictures as identities/<identity>/<file> below --data"
        if self.made_from:
            return f"complete it, or remove it: it is made from {self.made_from}; {SETS[self.made_from].how_to_get}"
        ways = [f"get {self.name} from {self.source} and unpack it as {self.folders[0]}/ below --data"]
        ways += [SETS["own"].how_to_get] * ("train" in self.parts)
        ways += [f"or draw a stand-in into another, empty folder: {self.drawing('DIR')}"] * bool(self.drawn)
        return ", ".join(ways)

    def drawing(self, out) -> str:
        """The command that draws a stand-in into a folder."""
        return f"python -m ppcl data synthesise --task {self.task} --out {out}"


def _cuhk03(boxes: tuple[str, ...], train: int, gallery: int) -> dict[str, Part]:
    """The parts of CUHK03-NP with one kind of boxes."""
    return {
        "train": Part(tuple(f"{name}/bounding_box_train" for name in boxes), train, 767),
        "query": Part(tuple(f"{name}/query" for name in boxes), 1400, 700),
        "gallery": Part(tuple(f"{name}/bounding_box_test" for name in boxes), gallery, 700),
    }


_CUHK03 = {"detected": _cuhk03(("detected",), 7365, 5332), "labelled": _cuhk03(("labeled", "labelled"), 7368, 5328)}
# Digits are ASCII's, and no more of them than an int64 holds.
_MARKET = r"(?P<identity>-1|[0-9]{4,18})_c(?P<camera>[0-9]{1,18})s[0-9]+_[0-9]+_[0-9]+(?i:\.jpe?g)?"  # one: .jpg.jpg

SETS = {
    one.name: one
    for one in (
        DataSet(
            "market1501",
            "person",
            ("Market-1501-v15.09.15", "market1501", "Market-1501"),
            {
                "train": Part(("bounding_box_train",), 12936, 751),
                "query": Part(("query",), 3368, 750),
                "gallery": Part(("bounding_box_test",), 19732, 750),
            },
            pattern=_MARKET,
            example="0002_c1s1_000451_03.jpg",
            protocol="standard",
            cameras=True,
            distractors=True,
            drawn="people",
            source="zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
        ),
        DataSet(
            "cuhk03",
            "person",
            ("cuhk03-np", "cuhk03_np", "cuhk03"),
            _CUHK03["detected"],
            variants=_CUHK03,
            pattern=r"(?P<identity>[0-9]{4,18})_c(?P<camera>[0-9]{1,18})_[0-9]+",
            example="0001_c1_1.png",
            protocol="standard",
            cameras=True,
            source="the repository zhunzhong07/person-re-ranking (CUHK03-NP)",
        ),
        DataSet(
            "partial-reid",
            "person",
            ("Partial-REID_Dataset", "PartialREID", "Partial_REID", "Partial-REID"),
            {
                "query": Part(("partial_body_images",), 300, 60),
                "gallery": Part(("whole_body_images",), 300, 60),
                "occluded": Part(("occluded_body_images",), 300, 60),
            },
            pattern=r"(?P<identity>[0-9]{1,18})_[0-9]{1,18}",
            example="001_001.jpg",
            protocol="shots",
            partial=True,
            drawn="people",
            source="isee-ai.cn/resource.html",
        ),
        DataSet(
            "partial-ilids",
            "person",
            ("Partial_iLIDS", "PartialiLIDS", "Partial-iLIDS"),
            {"query": Part(("Probe", "query"), 119, 119), "gallery": Part(("Gallery",), 119, 119)},
            pattern=r"(?P<identity>[0-9]{1,18})(_(?P<camera>[0-9]{1,18}))?",
            example="001.jpg or 001_1.jpg",
            protocol="shots",
            partial=True,
            drawn="people",
            source="the repository lingxiao-he/Partial-Person-ReID",
        ),
        DataSet(
            "occluded-reid",
            "person",
            ("Occluded_REID", "OccludedREID", "Occluded-REID"),
            {
                "query": Part(("occluded_body_images",), 1000, 200),
                "gallery": Part(("whole_body_images",), 1000, 200),
            },
            pattern=r"(?P<identity>[0-9]{1,18})_[0-9]{1,18}",
            example="001_01.tif",
            protocol="shots",
            drawn="people",
            source="the repository tinajia2012/ICME2018_Occluded-Person-Reidentification_datasets",
        ),
        *(  # our protocol, METHOD.md §10
            DataSet(
                f"partial-{whole}",
                "person",
                (),
                {"query": Part(), "gallery": Part()},
                protocol="shots",
                cameras=True,
                partial=True,
                distractors=whole == "market1501",
                made_from=whole,
            )
            for whole in ("market1501", "cuhk03")
        ),
        DataSet(
            "casia-webface",
            "face",
            ("CASIA-WebFace", "CASIA_WebFace"),
            {"train": Part(pictures=494414, identities=10575)},
            drawn="faces",
            source="CASIA, on request,",
        ),
        DataSet(
            "lfw",
            "face",
            ("lfw", "lfw_funneled", "lfw-deepfunneled"),
            {"all": Part(pictures=13233, identities=5749)},
            protocol="verification",
            drawn="faces",
            source="figshare 5976018 (pictures and pairs.txt)",
        ),
        DataSet(  # no source counts it: the recipe's own counts
            "partial-lfw",
            "face",
            ("Partial-LFW", "Partial_LFW", "partial"),
            {"query": Part(("probe", "query"), 1000, 1000), "gallery": Part(("gallery",), 1000, 1000)},
            pattern=r"(?P<person>(?s:.+?))(_(?P<number>[0-9]+))?",
            example="<person>.jpg or <person>_<number>.jpg",
            protocol="shots",
            partial=True,
            made_from="lfw",
        ),
        DataSet(
            "own",
            "any",
            ("identities",),  # or --data itself
            {"train": Part(), "test": Part()},
            protocol="shots",
            partial=True,
            made_from="own",
            split=True,
        ),
    )
}
TESTS = [name for name, one in SETS.items() if one.protocol]  # what `evaluate` takes
RESERVED = {  # names that no folder of identities, nor a folder in it, may have
    name.lower()
    for one in SETS.values()
    for parts in (one.parts, *one.variants.values())
    for path in (*one.folders, *parts, *(path for part in parts.values() for path in part.folders), "val")
    for name in path.split("/")
}


def sets_of(task: str | None = None) -> list[DataSet]:
    """The sets of a task, in order."""
    return [one for one in SETS.values() if one.of(task)]
