"""`python -m speakerprint` is `speakerprint`."""

from speakerprint.cli import main

main()
