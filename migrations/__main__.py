"""`python -m migrations`: bring the database of the settings to the newest schema."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from jobs.settings import settings_or_exit


def upgrade(database_url: str) -> None:
    """Bring a database to the newest schema; nothing happens if it is there already."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    command.upgrade(config, "head")


if __name__ == "__main__":
    upgrade(settings_or_exit().database_url)
