"""Wrong labels, unusable audio and copies in some corpora: a report, a page to listen, and lists of what to leave out.

python -m stages.audit mine
"""

import torch

from speakerprint.model.speaker_model import SpeakerModel
from speakerprint.pages.audit import audit_corpora, read_shown, render, write_exclude_lists
from speakerprint.params.audit import Audit
from speakerprint.params.section import read_section
from stages import fresh, run, write_json, write_text


def main(report: str) -> None:
    settings = read_section(Audit, "audit")
    model = SpeakerModel.load(settings.model).to("cuda" if torch.cuda.is_available() else "cpu")
    found = audit_corpora(settings.corpora[report], model, settings)
    folder = fresh(f"data/audit/{report}")
    folder.mkdir()
    write_exclude_lists(found, folder)
    write_text(render(found, report, read_shown(found)), folder / "report.html")
    write_json(found.report, f"metrics/audit/{report}.json")


if __name__ == "__main__":
    run(main)
