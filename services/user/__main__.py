"""`python -m services.user` runs user as a process of its own."""

from services.user.service import build
from services.user.settings import Settings
from weft import run

if __name__ == "__main__":
    run(lambda: [build(Settings())])
