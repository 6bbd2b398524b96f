"""`python -m lpm_stream`: the command line."""

from lpm_stream.cli import main

if __name__ == "__main__":  # child processes import this module too
    main()
