"""``python -m mergesafe`` is the command ``mergesafe``."""

from mergesafe.cli.main import main

main()
