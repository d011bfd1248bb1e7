"""What a corpus is for."""

from typing import Literal

Role = Literal["train", "unlabelled", "noise", "evaluate"]
