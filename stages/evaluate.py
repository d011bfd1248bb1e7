"""The trained model on one evaluation corpus: metrics, curves and pictures; on the trials of trials/<corpus>.txt if it is there.

python -m stages.evaluate demo_dev
"""

from stages import run, write_json  # isort: skip
import json
from pathlib import Path

import torch

from speakerprint.evaluation import evaluate
from speakerprint.model import SpeakerModel
from speakerprint.params import load_params
from speakerprint.plots import write_plots
from speakerprint.store import FeatureStore
from speakerprint.trial_lists import TrialList, read_trial_list


def main(corpus: str) -> None:
    params = load_params()
    store = FeatureStore(f"data/features/evaluate/{corpus}")
    model = SpeakerModel.load("models/speakerprint").to("cuda" if torch.cuda.is_available() else "cpu")
    evaluation = evaluate(store, model, params.evaluation, trial_list_of(corpus, store))
    write_json(evaluation.metrics, f"metrics/{corpus}.json")
    write_plots(evaluation, corpus, f"metrics/plots/{corpus}")


def trial_list_of(corpus: str, store: FeatureStore) -> TrialList | None:
    """The corpus's own list of trials, if there is one; says which trials are run, so that a misnamed list shows."""
    path = Path(f"trials/{corpus}.txt")
    if not path.is_file():
        print(f"{corpus}: all pairs of recordings ({path} would replace them)")
        return None
    report = json.loads(Path(f"metrics/data/{corpus}.resample.json").read_text())
    trials = read_trial_list(path, store.recordings, [bad["recording_id"] for bad in report["bad"]])
    print(f"{corpus}: {len(trials.first):,} trials of {path}, {trials.skipped:,} skipped")
    return trials


if __name__ == "__main__":
    run(main)
