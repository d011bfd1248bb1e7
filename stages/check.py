"""All of params.yaml is valid. Every other stage stands on this one, so a mistyped key stops a run before an output is touched.

python -m stages.check
"""

from speakerprint.params.whole import load_params
from stages import run, write_text


def main() -> None:
    load_params()
    write_text("valid\n", "data/checked")  # always the same, so that no other stage reruns because this one did


if __name__ == "__main__":
    run(main)
