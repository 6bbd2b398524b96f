"""`python -m lpm_stream`: the command line."""

from lpm_stream.cli import main

main()
