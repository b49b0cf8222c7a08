"""`python -m guidestar` is the command `guidestar`."""

from guidestar.cli.main import entry

if __name__ == "__main__":
    entry()
