"""An audit of the project's corpora: what it reads, a page to listen to what was found, and lists of what to leave out."""

import csv
import html
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from speakerprint.audio.decode import decode
from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.corpora.resampling import read_audio
from speakerprint.corpora.shards import in_parallel
from speakerprint.errors import InputError
from speakerprint.evaluation.audit import KINDS, WORST, Audit, Finding, audit, hear_encoded, name_of
from speakerprint.evaluation.evaluate import Embedder, embed_store
from speakerprint.files import whole_file
from speakerprint.pages import toolkit
from speakerprint.params.audit import Audit as AuditParams

ABOUT = {
    "near_silent": ("Near silent", "The level, RMS over the whole recording, is far below that of speech."),
    "little_speech": ("Little speech", "A voice activity detector hears less speech than a recording should hold."),
    "clipped": ("Clipped", "Too many samples are near the largest one: the loud parts were cut off when it was recorded."),
    "exact_duplicate": ("The same recording", "Sample for sample. What fits its speaker less is proposed to be left out."),
    "near_duplicate": ("The same recording, changed", "Another level or encoding of the same sound, by its movement in time."),
    "odd": (
        "Unlike its speaker",
        "It scores low against the other recordings of its id, of which the most typical is beside it.",
    ),
    "same_person": ("Two ids, one voice", "All recordings of the one id against all of the other; a typical one of each."),
}


def audit_corpora(names: Sequence[str], model: Embedder, settings: AuditParams) -> Audit:
    """Audit corpora of the project in the working directory, together, from the audio and features that `dvc repro` left there.

    Raises InputError if they are not there.
    """
    tables, sounds, embeddings, places = [], [], [], []
    for name in names:
        store = _store(name)
        recordings, clips = read_audio(f"data/audio/{name}")
        good = recordings["recording_id"].isin(store.recordings["recording_id"])  # features may have been had of fewer
        heard = in_parallel(hear_encoded, (clip for clip, is_good in zip(clips, good, strict=True) if is_good))
        sounds += tqdm(heard, f"listen to {name}", len(store), unit="recording", disable=None)
        tables.append(store.recordings.assign(corpus=name))
        embeddings.append(embed_store(store, model))
        places += [(store, row) for row in range(len(store))]
    table = pd.concat(tables, ignore_index=True)
    return audit(table, sounds, np.concatenate(embeddings), lambda row: places[row][0].frames(places[row][1]), settings)


def _store(corpus: str) -> FeatureStore:
    folders = [folder for role in ("train", "evaluate") if (folder := Path(f"data/features/{role}/{corpus}")).is_dir()]
    if len(folders) != 1:
        raise InputError(
            f"{corpus} has {len(folders)} folders data/features/*/{corpus}, expected one; run `dvc repro` to make it"
        )
    return FeatureStore(folders[0])


def write_exclude_lists(found: Audit, folder: Path) -> None:
    """Write ``folder/CORPUS.csv`` of each corpus: a line for each recording proposed to be left out, with its first reason."""
    reasons: dict[int, Finding] = {}
    for one in sorted(found.findings, key=lambda one: list(KINDS).index(one.kind)):
        for row in one.excluded:
            reasons.setdefault(row, one)
    for corpus in dict.fromkeys(found.recordings["corpus"]):
        with whole_file(folder / f"{corpus}.csv") as part, part.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(["recording_id", "reason", "other", "value"])
            for row, one in reasons.items():
                if found.recordings["corpus"].iat[row] == corpus:
                    other = "" if one.other is None else name_of(found.recordings, one.other)
                    lines.writerow([found.recordings["recording_id"].iat[row], one.kind, other, f"{one.value:.4g}"])


def render(found: Audit, title: str, audio: dict[int, str]) -> str:
    """The page of the worst findings of each kind, whole in itself; ``audio`` has rows, or some of them, as `read_shown`."""

    def side(row: int) -> str:
        name, speaker = name_of(found.recordings, row), found.recordings["speaker_id"].iat[row]
        player = '<p class="quiet">not in this file</p>'
        if row in audio:
            source = f"data:audio/ogg;base64,{audio[row]}"
            player = f'<audio controls preload="none" aria-label="{html.escape(name)}" src="{source}"></audio>'
        return f'<div><div class="name">{html.escape(name)}</div><div class="quiet">id {html.escape(speaker)}</div>{player}</div>'

    def case(one: Finding) -> str:
        rows = [one.recording] if one.other is None else [one.recording, one.other]
        value = f'{KINDS[one.kind]} <span class="score">{one.value:.3g}</span>' if KINDS[one.kind] else ""
        return f'<li>{value}<div class="sides">{"".join(map(side, rows))}</div></li>'

    tiles, sections = [], []
    for kind, (heading, about) in ABOUT.items():
        of_kind = [one for one in found.findings if one.kind == kind]
        tiles.append(f"<div><dt>{heading}</dt><dd>{len(of_kind):,}</dd></div>")
        if of_kind:
            shown = "" if len(of_kind) <= WORST else f" The worst {WORST} of {len(of_kind):,} are shown."
            cases = "".join(map(case, of_kind[:WORST]))
            head = f'<h2>{heading}</h2><p class="quiet">{about}{shown}</p>'
            sections.append(f'<section class="card">{head}<ol class="pairs">{cases}</ol></section>')
    return toolkit.fill(
        "audit.html",
        title=html.escape(f"Audit: {title}"),
        sources="style-src 'unsafe-inline'; img-src data:; media-src data:",
        about=f"{found.report['recordings']:,} recordings, {found.report['speakers']:,} ids",
        tiles="".join(tiles),
        sections="".join(sections),
        max_listen_s=f"{toolkit.MAX_LISTEN_S:g}",
    )


def read_shown(found: Audit) -> dict[int, str]:
    """The rows that `render` shows as Opus in base64, as many as there is room for, from the project in the working directory."""
    worst = [[one for one in found.findings if one.kind == kind][:WORST] for kind in KINDS]
    rows = {row for one in chain(*worst) for row in (one.recording, one.other) if row is not None}
    return toolkit.embed_audio((row, *decode(clip, "audio")) for row, clip in _encoded(found.recordings, rows))


def _encoded(recordings: pd.DataFrame, rows: set[int]) -> Iterator[tuple[int, bytes]]:
    wanted = {(recordings["corpus"].iat[row], recordings["recording_id"].iat[row]): row for row in rows}
    for corpus in dict.fromkeys(corpus for corpus, _ in wanted):
        table, clips = read_audio(f"data/audio/{corpus}")
        for name, clip in zip(table["recording_id"], clips, strict=True):
            if (corpus, name) in wanted:
                yield wanted[corpus, name], clip
