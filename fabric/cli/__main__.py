"""``python -m fabric.cli`` is ``fabric``, also where the script is not on the path."""

from fabric.cli.main import main

if __name__ == "__main__":
    main()
