"""The trained model on one evaluation corpus: figures, curves and pictures.

The trials are all pairs of recordings, or those of data/given/trials/<corpus>.txt if it is there.

python -m stages.evaluate demo_dev
"""

from stages import fresh, run, write_json  # isort: skip
import json
from pathlib import Path

import torch

from speakerprint.corpora.feature_store import FeatureStore
from speakerprint.evaluation.evaluate import evaluate
from speakerprint.evaluation.plots import write_plots
from speakerprint.evaluation.trial_lists import read_trial_list
from speakerprint.evaluation.trial_sets import AllPairs, TrialSet
from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.params.evaluation import Evaluation
from speakerprint.params.section import read_section


def main(corpus: str) -> None:
    store = FeatureStore(f"data/features/evaluate/{corpus}")
    settings = read_section(Evaluation, "evaluation")
    start = _load("models/speakerprint/start") if Path("models/speakerprint/start").is_dir() else None
    evaluation = evaluate(store, _load("models/speakerprint"), settings, trials_of(corpus, store), start)
    write_json(evaluation.metrics, f"metrics/{corpus}.json")
    write_json(evaluation.details, f"metrics/{corpus}.details.json")
    write_plots(evaluation, corpus, fresh(f"metrics/plots/{corpus}"))


def _load(folder: str) -> SpeakerModel:
    return SpeakerModel.load(folder).to("cuda" if torch.cuda.is_available() else "cpu")


def trials_of(corpus: str, store: FeatureStore) -> TrialSet:
    """The corpus's own list of trials, or all pairs; says which trials are run, so that a misnamed list shows."""
    path = Path(f"data/given/trials/{corpus}.txt")
    if not path.is_file():
        print(f"{corpus}: all pairs of recordings ({path} would replace them)")
        return AllPairs(store.speaker_ids)
    report = json.loads(Path(f"metrics/data/{corpus}.resample.json").read_text())
    trials = read_trial_list(path, store.recordings, [bad["recording_id"] for bad in report["bad"]])
    print(f"{corpus}: {len(trials.first):,} trials of {path}, {trials.skipped:,} skipped")
    return trials


if __name__ == "__main__":
    run(main)
