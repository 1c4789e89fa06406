"""`python -m asyncbackup`."""

from asyncbackup.cli.app import main

if __name__ == "__main__":
    main()
