"""`python -m recontour`, where the script `recontour` is not on the path."""

from recontour.cli.main import main

if __name__ == "__main__":
    main()
