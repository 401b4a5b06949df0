"""`python -m fedred` is the command `fedred`."""

from fedred.cli import main

if __name__ == "__main__":
    main()
