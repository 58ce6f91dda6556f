"""`python -m avalon` is the command line, like `avalon`."""

from avalon.cli import main

if __name__ == "__main__":
    main()
