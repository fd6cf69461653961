"""The bodies of requests and answers, made from the declared options."""

from typing import Any

from pydantic import BaseModel, Field, StrictBool, StrictInt, create_model

from lorax.options import Batching, Options, Running, Saving, declared
from lorax.workflow import Group

STRICT = {bool: StrictBool, int: StrictInt}  # else "yes" would be true, and true would be 1
DEFAULTS = "What is not given is as the host's settings page says, and where that says nothing, as below"


class Strict(BaseModel):
    """A part of a request. What it does not know is refused and not ignored."""

    class Config:
        extra = "forbid"


def _model(name: str, declaration: type) -> Any:
    fields: dict[str, Any] = {}
    for option in declared(declaration):
        kind = STRICT.get(option.kind, option.kind)
        wanted = kind if option.default is not None else kind | None
        fields[option.name] = wanted, Field(option.default, description=option.described)
    return create_model(name, __base__=Strict, **fields)


OptionsModel = _model("LoraxOptions", Options)
RunningModel = _model("LoraxRunning", Running)
SavingModel = _model("LoraxSaving", Saving)
BatchingModel = _model("LoraxBatching", Batching)


class LoraxBase(BaseModel):
    name: str
    loaded: bool
    family: str = Field(description="What it is by its header, also if it is not supported; empty if that cannot be told")
    supported: bool = Field(description="Whether LoRAs can be moved from it and to it")


class LoraxAdapter(BaseModel):
    name: str
    rank: str
    format: str
    family: str
    trained_on: str = Field(
        description="File name of the base that the metadata names; where it names none, the kind that Civitai names"
    )
    trigger_words: str
    problem: str = Field(description="Why it cannot be moved, else empty")


class LoraxAsked(Strict):
    options: OptionsModel = Field(default_factory=OptionsModel, description=DEFAULTS)  # type: ignore[valid-type]
    running: RunningModel = Field(  # type: ignore[valid-type]
        default_factory=RunningModel, description=f"What bridge and refine have the bases draw. {DEFAULTS}"
    )


class LoraxAnalysis(LoraxAsked):
    source: str = Field(description="Name of the base that the adapters were trained on, as /bases lists it")
    target: str = Field(description="Name of the base to move them to")
    adapters: list[str] = Field(description="Names as /adapters lists them")


class LoraxWritten(LoraxAsked):
    subfolder: str = Field("", description="Inside the LoRA folder; empty: beside the adapter")
    saving: SavingModel = Field(default_factory=SavingModel, description=DEFAULTS)  # type: ignore[valid-type]


class LoraxTransfer(LoraxAnalysis, LoraxWritten):
    name: str = Field("", description="The same as name in saving, and before that")


class LoraxItem(Strict):
    adapter: str = Field(description="Name as /adapters lists it")
    source: str | None = Field(None, description="Name of its source as /bases lists it; empty: the one that its metadata names")


class LoraxBatch(LoraxWritten):
    items: list[LoraxItem] = Field(description="The adapters, each with its source")
    targets: list[str] = Field(description="Names of the bases to move them to")
    batching: BatchingModel = Field(default_factory=BatchingModel)  # type: ignore[valid-type]


class LoraxJob(BaseModel):
    id: str
    state: str = Field(description="running (or waiting for the host's queue), done, failed or cancelled")
    done: int
    total: int
    text: str
    error: str
    results: list[dict[str, Any]] = Field(
        description="For each adapter: its name, the report, what was written in the LoRA folder, its name as /adapters lists "
        "it, and a note; of a batch for each adapter and target, with what became of it, and why"
    )


class LoraxVerdicts(Strict):
    target: str = Field(description="Name of the base on which the adapters are to be used, as /bases lists it")
    adapters: list[str] = Field(description="Names as /adapters lists them")
    source: str | None = Field(None, description="Name of the base that all were trained on; empty: each tells its own")


class LoraxAction(BaseModel):
    do: str = Field(description="use_original, move, refine or bridge")
    method: str | None = Field(description="That of a transfer which does it; null if there is nothing to transfer")
    seconds: float = Field(description="About how long it takes")
    bytes: int = Field(description="About how much memory it takes at most, if it runs the bases; else 0")


class LoraxVerdict(BaseModel):
    adapter: str
    kind: str = Field(
        description="same, made, present, works, gains, changes, unrelated, crossed, fits_itself, other_architecture, "
        "wrong_source, unreadable, source_unknown or source_missing"
    )
    words: str = Field(description="The verdict in a sentence or two")
    strength: float = Field(description="At which the original does what a moved copy would do")
    actions: list[LoraxAction] = Field(description="What can be done, the recommended action first")


class LoraxRow(LoraxVerdict):
    group: str = Field(description=f"The verdict in a word: {', '.join(group.value for group in Group)}")
    source: str | None = Field(description="Name of the base that it names as its source, as /bases lists it; else null")
    could_be: list[str] = Field(description="Where its source is not known, the bases that it could be, the likeliest first")
    missing: list[str] = Field(description="Where its source is not listed, what is known of that: its name and hash")
    state: str = Field(description="done: moved to this target already; changed: moved, and another file since; else empty")
    moved: list[str] = Field(description="Names of the files that were made of it for this target")
    rank: str
    format: str
    family: str
    trained_on: str


class LoraxLibrary(BaseModel):
    total: int = Field(description="Of the rows that were asked for, of which limit are here, from offset on")
    counts: dict[str, int] = Field(description="How many adapters of the library there are of each group and state")
    note: str = Field(description="What is not known of the adapters")
    rows: list[LoraxRow]
