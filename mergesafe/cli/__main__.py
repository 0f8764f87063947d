"""``python -m mergesafe.cli`` is the command ``mergesafe``."""

from mergesafe.cli.main import main

main()
