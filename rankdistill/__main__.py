"""`python -m rankdistill`."""

from rankdistill.cli import main

if __name__ == "__main__":
    main()
