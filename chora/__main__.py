"""`python -m chora`, and the entry of the built binary."""

import sys

from chora.starting import end_on_signals


def main() -> None:
    """Run the command line, or, in the built binary, become a template worker."""
    if sys.argv[1:2] == ["--render-worker"]:
        from chora.render.worker import main as work

        work()
    else:
        end_on_signals(sys.argv[1:])
        from chora.cli import main as command

        command()


if __name__ == "__main__":
    main()
