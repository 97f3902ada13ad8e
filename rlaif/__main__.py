"""`python -m rlaif`."""

from rlaif.cli import main

if __name__ == "__main__":
    main()
