"""``python -m foveal``: the same as the command ``foveal``."""

from foveal.cli.main import app

if __name__ == "__main__":
    app()
