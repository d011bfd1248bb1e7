"""params.yaml as frozen, typed objects; an unknown, missing or ill-typed key is an error that names it.

Every key, its unit and its meaning are commented in ``params.yaml`` itself.
"""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speakerprint.errors import InputError

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
AugmentationKind = Literal[
    "gaussian_noise",
    "time_mask",
    "frequency_mask",
    "low_frequency_noise",
    "recorded_noise",
    "background_speech",
    "coloured_noise",
    "reverberation",
    "channel",
    "band_limit",
    "codec",
    "vocal_tract_warp",
]
HubField = Literal[
    "recording_id", "speaker_id", "locale", "gender", "age", "accent", "up_votes", "down_votes", "duration_s", "audio"
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


# --- corpora --------------------------------------------------------------------------------------------------------


class CommonVoiceSource(Section):
    kind: Literal["common_voice"]
    root: str
    locales: Annotated[list[str], Field(min_length=1)] | None = None
    splits: Annotated[list[str], Field(min_length=1)]


class HubSource(Section):
    kind: Literal["hub"]
    repository: Annotated[str, Field(min_length=1)]
    revision: str | None  # read_hub requires it of what is not on disk
    configuration: str | None
    splits: Annotated[list[str], Field(min_length=1)]
    columns: dict[HubField, str] | None = None

    @field_validator("revision")
    @classmethod
    def _pinned(cls, revision: str | None) -> str | None:
        if revision is not None and not re.fullmatch("[0-9a-f]{40}", revision):
            raise ValueError("revision is not a commit (40 hexadecimal digits): what a branch or tag names may change")
        return revision


class DataCollectiveSource(Section):
    kind: Literal["data_collective"]
    dataset: Annotated[str, Field(min_length=1)]
    locales: Annotated[list[str], Field(min_length=1)] | None = None
    splits: Annotated[list[str], Field(min_length=1)]


class VoxCelebSource(Section):
    kind: Literal["voxceleb"]
    root: str


class FolderSource(Section):
    kind: Literal["folder"]
    root: str


class EspeakSource(Section):
    kind: Literal["espeak"]
    splits: Annotated[list[str], Field(min_length=1)]
    speakers: PositiveInt
    recordings_per_speaker: PositiveInt
    seed: Count


Source = Annotated[
    CommonVoiceSource | DataCollectiveSource | HubSource | VoxCelebSource | FolderSource | EspeakSource,
    Field(discriminator="kind"),
]


class Filter(Section):
    exclude: str | None
    min_up_votes: Count
    max_down_votes: Count | None
    min_duration_s: NonNegative
    max_duration_s: Positive | None
    genders: Annotated[list[Literal["male", "female", "other"]], Field(min_length=1)] | None
    locales: Annotated[list[str], Field(min_length=1)] | None
    languages: Annotated[list[str], Field(min_length=1)] | None
    speaker_range: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    min_recordings_per_speaker: PositiveInt
    max_recordings_per_speaker: PositiveInt | None
    when_too_many: Literal["drop", "sample"]
    seed: Count

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: list[str] | None) -> list[str] | None:
        if languages is not None:
            from transformers.models.whisper.tokenization_whisper import LANGUAGES  # a second to import

            for code in languages:
                if code not in LANGUAGES:
                    names = {name: known for known, name in LANGUAGES.items()} | {known: known for known in LANGUAGES}
                    near = get_close_matches(code.lower(), names, n=1)
                    hint = f"did you mean {names[near[0]]}? It" if near else "it"
                    raise ValueError(f"{code!r} is no language that Whisper knows; {hint} takes codes such as en, de, zh")
        return languages

    @field_validator("exclude")
    @classmethod
    def _watched(cls, path: str | None) -> str | None:
        if path is not None and not re.fullmatch(r"exclude/[^/]+", path):
            raise ValueError("expected a file in exclude/, as in exclude/mine.csv: only there a change reruns the filter")
        return path

    @model_validator(mode="after")
    def _ranges(self) -> "Filter":
        if self.speaker_range[0] >= self.speaker_range[1]:
            raise ValueError(f"speaker_range {self.speaker_range} is empty: the first number must be the smaller one")
        if self.max_recordings_per_speaker is not None and self.max_recordings_per_speaker < self.min_recordings_per_speaker:
            raise ValueError("max_recordings_per_speaker is smaller than min_recordings_per_speaker: no speaker can have both")
        if self.max_duration_s is not None and self.max_duration_s <= self.min_duration_s:
            raise ValueError("max_duration_s is not larger than min_duration_s: no recording can have both")
        return self


class Corpus(Section):
    role: Literal["train", "noise", "evaluate"]
    source: Source
    filter: Filter


# --- stages ---------------------------------------------------------------------------------------------------------


class Pretrained(Section):
    source: str


class Language(Section):
    clips: PositiveInt
    sure_probability: Fraction
    min_probability: Fraction
    batch: PositiveInt


class Resample(Section):
    engine: Literal["soxr", "resampy"]
    encoding: Literal["flac", "wav"]
    min_duration_s: Positive
    max_bad_fraction: Fraction


class Model(Section):
    layers: Annotated[int, Field(ge=1, le=6)]
    layer_combination: Literal["concatenate", "mix", "last"]
    convolution_channels: Count
    pooling: Literal["mean", "attentive_statistics", "multi_head_attention"]
    projection: Literal["discriminant", "linear", "mlp"]
    embedding_dim: PositiveInt
    window_s: Annotated[float, Field(ge=0.1, le=30.0)]
    centred: bool


class Loss(Section):
    triplet_weight: NonNegative
    triplet_margin: Positive
    ntxent_weight: NonNegative
    ntxent_temperature: Positive
    supervised_contrastive_weight: NonNegative
    supervised_contrastive_temperature: Positive
    angular_margin_weight: NonNegative
    angular_margin: NonNegative
    angular_margin_scale: Positive
    angular_margin_warmup_steps: Count
    angular_margin_on_views: bool
    angular_margin_subcentres: PositiveInt
    teacher_match_weight: NonNegative
    teacher_similarity_weight: NonNegative

    @model_validator(mode="after")
    def _some_loss(self) -> "Loss":
        if not any(value for name, value in self if name.endswith("_weight")):
            raise ValueError("every weight is 0: nothing would be learned; give at least one loss a weight")
        return self


class Sampling(Section):
    speakers: Annotated[int, Field(ge=2)]
    utterances: PositiveInt
    speeds: Annotated[list[Annotated[float, Field(ge=0.5, le=2.0)]], Field(min_length=1)]
    corpus_weights: dict[str, Positive] | None
    single_gender: bool
    by_locale: bool

    @field_validator("speeds")
    @classmethod
    def _distinct(cls, speeds: list[float]) -> list[float]:
        if 1.0 not in speeds or len(set(speeds)) < len(speeds):
            raise ValueError("speeds must be different and hold 1.0, the speakers as they are")
        return speeds

    @model_validator(mode="after")
    def _one_order(self) -> "Sampling":
        if self.by_locale and self.corpus_weights:
            raise ValueError("by_locale is true and corpus_weights are given: they order speakers in different ways; drop one")
        return self


class GaussianNoise(Section):
    std: NonNegative


class TimeMask(Section):
    max_frames: Count


class FrequencyMask(Section):
    max_bands: Annotated[int, Field(ge=0, le=80)]


class LowFrequencyNoise(Section):
    bands: Annotated[int, Field(ge=1, le=80)]
    std: NonNegative


class Ranges(Section):
    """Settings drawn from between a ``min_…`` and the ``max_…`` of the same name."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        settings = dict(self)
        for lowest, highest in ((f"min_{name[4:]}", name) for name in settings if name.startswith("max_")):
            if settings[lowest] > settings[highest]:
                raise ValueError(f"{lowest} {settings[lowest]} is above {highest} {settings[highest]}")
        return self


class NoiseLevel(Ranges):
    min_snr_db: float
    max_snr_db: float


class Reverberation(Ranges):
    min_decay_s: Positive
    max_decay_s: Positive
    min_direct_db: float
    max_direct_db: float


class Channel(Section):
    std_db: NonNegative
    gain_db: NonNegative


class BandLimit(Section):
    highest_low_band: Annotated[int, Field(ge=0, le=39)]
    lowest_high_band: Annotated[int, Field(ge=40, le=79)]


class Codec(Ranges):
    min_depth_db: NonNegative
    max_depth_db: NonNegative
    std_db: NonNegative


class VocalTractWarp(Section):
    max_warp: Annotated[float, Field(ge=0, le=0.5)]


class NtxentViews(Section):
    views: Count
    kinds: list[AugmentationKind]
    kinds_per_view: Count

    @model_validator(mode="after")
    def _enough_kinds(self) -> "NtxentViews":
        if self.kinds_per_view > len(self.kinds):
            raise ValueError(
                f"kinds_per_view is {self.kinds_per_view} but kinds lists {len(self.kinds)}: list more or draw fewer"
            )
        return self


class TripletAugmentation(Section):
    kinds: list[AugmentationKind]
    kinds_per_clip: Count

    @model_validator(mode="after")
    def _enough_kinds(self) -> "TripletAugmentation":
        if self.kinds_per_clip > len(self.kinds):
            raise ValueError(
                f"kinds_per_clip is {self.kinds_per_clip} but kinds lists {len(self.kinds)}: list more or draw fewer"
            )
        return self


class Augmentation(Section):
    gaussian_noise: GaussianNoise
    time_mask: TimeMask
    frequency_mask: FrequencyMask
    low_frequency_noise: LowFrequencyNoise
    recorded_noise: NoiseLevel
    background_speech: NoiseLevel
    coloured_noise: NoiseLevel
    reverberation: Reverberation
    channel: Channel
    band_limit: BandLimit
    codec: Codec
    vocal_tract_warp: VocalTractWarp
    ntxent: NtxentViews
    triplet: TripletAugmentation


class Discriminant(Section):
    shrinkage: Fraction
    crop_s: Positive
    views: Count


class Train(Section):
    init_from: str
    new_head: bool
    seed: Count
    steps: Count
    crop_s: Positive
    last_crop_s: Positive | None
    crop_lengths: Literal["rising", "random"]
    encoder_learning_rate: NonNegative
    encoder_layer_decay: Annotated[float, Field(gt=0, le=1)]
    encoder_lora_rank: Count
    head_learning_rate: Positive
    freeze_encoder_steps: Count
    warmup_steps: Count
    weight_decay: NonNegative
    gradient_accumulation: PositiveInt
    gradient_cache_clips: PositiveInt | None
    gradient_clip: Positive
    start_weight: Fraction
    mixed_precision: Literal["auto", "bf16", "no"]
    validation_speakers: Fraction
    validation_max_recordings: PositiveInt
    validate_every_steps: PositiveInt
    early_stopping_validations: PositiveInt | None
    kept_weights: Literal["best", "last"]
    checkpoint_every_steps: PositiveInt

    @model_validator(mode="after")
    def _adaptable(self) -> "Train":
        if self.encoder_lora_rank and not self.encoder_learning_rate:
            raise ValueError(
                f"encoder_lora_rank is {self.encoder_lora_rank}, but with encoder_learning_rate 0 the encoder stays frozen: "
                "give it a rate (0.0001, say), or set the rank to 0"
            )
        return self


class Evaluation(Section):
    corpora: list[str]
    batch_s: Positive
    bootstrap_samples: Annotated[int, Field(ge=100)]
    duration_edges_s: list[Positive]
    projected_speakers: PositiveInt
    seed: Count


class Audit(Section):
    corpora: dict[str, Annotated[list[str], Field(min_length=1)]]
    model: str
    batch_s: Positive
    odd_false_rejects: Annotated[float, Field(gt=0, lt=1)]
    same_person_false_alarms: Positive
    duplicate_correlation: Annotated[float, Field(gt=0, le=1)]
    min_level_dbfs: float
    max_clipped_fraction: Fraction
    min_speech_s: NonNegative
    min_speech_fraction: Fraction


class Params(Section):
    corpora: dict[str, Corpus]
    pretrained: Pretrained
    language: Language
    resample: Resample
    train_corpora: list[str]
    noise_corpora: list[str]
    model: Model
    loss: Loss
    sampling: Sampling
    augmentation: Augmentation
    discriminant: Discriminant
    train: Train
    evaluation: Evaluation
    audit: Audit

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        for key, listed, role in (
            ("train_corpora", self.train_corpora, "train"),
            ("noise_corpora", self.noise_corpora, "noise"),
            ("evaluation.corpora", self.evaluation.corpora, "evaluate"),
        ):
            expected = sorted(name for name, corpus in self.corpora.items() if corpus.role == role)
            if sorted(listed) != expected:
                raise ValueError(
                    f"{key} is {sorted(listed)}, but the corpora with role: {role} are {expected}: list exactly those"
                )
        for report, names in self.audit.corpora.items():
            if unknown := sorted(set(names) - set(self.corpora)):
                raise ValueError(f"audit.corpora.{report} lists {unknown[0]!r}, but the corpora are {list(self.corpora)}")
        if not self.train_corpora:
            raise ValueError("no corpus has role: train, so there is nothing to learn from; give one corpus that role")
        strange = sorted(set(self.sampling.corpus_weights or {}) - set(self.train_corpora))
        if strange:
            raise ValueError(
                f"sampling.corpus_weights.{strange[0]} weighs no corpus that is trained on: name some of {self.train_corpora}, "
                "or leave sampling.corpus_weights empty"
            )
        if self.train.gradient_cache_clips and (self.model.projection == "linear" or self.model.convolution_channels):
            raise ValueError(
                "train.gradient_cache_clips embeds a batch in parts, but with model.projection linear, or convolution_channels, "
                "clips are normalised by all of their batch: set the projection to discriminant or mlp and the channels to 0, "
                "or leave train.gradient_cache_clips empty"
            )
        if self.loss.ntxent_weight > 0 and self.augmentation.ntxent.views == 0:
            raise ValueError(
                "loss.ntxent_weight is above 0 but augmentation.ntxent.views is 0: ask for a view or set the weight to 0"
            )
        if self.model.projection == "discriminant" and self.model.convolution_channels:
            raise ValueError(
                "model.projection is discriminant, which starts from Whisper's own statistics, but model.convolution_channels is "
                f"{self.model.convolution_channels}: set it to 0, or the projection to linear"
            )
        if self.loss.triplet_weight > 0 and self.sampling.utterances < 2:
            raise ValueError(
                "loss.triplet_weight is above 0 but sampling.utterances is 1: a triplet needs two clips of a speaker"
            )
        return self


def _describe(error: ValidationError, path: Path) -> str:
    lines = [f"{path} is not valid:"]
    for problem in error.errors():
        # pydantic puts the discriminator's value into the location of a source; the user's key path has none
        parts = [str(part) for part in problem["loc"]]
        key = ".".join(part for i, part in enumerate(parts) if not (i and parts[i - 1] == "source" and i < len(parts) - 1))
        found: Any = problem.get("input")
        if problem["type"] == "extra_forbidden":
            text = "unknown key; check its spelling"
        elif problem["type"] == "missing":
            text = "missing key; add it (params.yaml in the repository shows every key)"
        else:
            text = problem["msg"].removeprefix("Value error, ")
            if not isinstance(found, dict | BaseModel):
                text += f", found {found!r}"
        lines.append(f"  {key or 'the file'}: {text}")
    return "\n".join(lines)


def parse_params(tree: Any, path: Path = Path("params.yaml")) -> Params:
    """Check a parsed YAML tree and freeze it. Raises InputError naming every offending key."""
    if not isinstance(tree, dict):
        raise InputError(f"{path} is empty or not a mapping of sections; start from the repository's params.yaml")
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise InputError(_describe(error, path)) from None


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check ``params.yaml``. Raises InputError naming the file and every offending key."""
    path = Path(path)
    try:
        tree = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run stages from the project's root") from None
    except YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    return parse_params(tree, path)


def corpus_params(params: Params, name: str) -> Corpus:
    """The corpus of that name. Raises InputError listing the known names."""
    if name not in params.corpora:
        raise InputError(f"there is no corpus {name!r} under corpora: in params.yaml; known: {', '.join(params.corpora)}")
    return params.corpora[name]
