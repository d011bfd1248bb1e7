"""The trained model on one evaluation corpus: metrics, curves and pictures.

python -m stages.evaluate demo_dev
"""

from stages import run, write_json  # isort: skip
import torch

from speakerprint.evaluation import evaluate
from speakerprint.model import SpeakerModel
from speakerprint.params import load_params
from speakerprint.plots import write_plots
from speakerprint.store import FeatureStore


def main(corpus: str) -> None:
    params = load_params()
    store = FeatureStore(f"data/features/evaluate/{corpus}")
    model = SpeakerModel.load("models/speakerprint").to("cuda" if torch.cuda.is_available() else "cpu")
    evaluation = evaluate(store, model, params.evaluation)
    write_json(evaluation.metrics, f"metrics/{corpus}.json")
    write_plots(evaluation, corpus, f"metrics/plots/{corpus}")


if __name__ == "__main__":
    run(main)
