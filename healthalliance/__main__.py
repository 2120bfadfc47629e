"""`python -m healthalliance`: the command line."""

from healthalliance.cli import main

main()
