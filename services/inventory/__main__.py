"""`python -m services.inventory` runs inventory as a process of its own."""

from services.inventory.service import build
from services.inventory.settings import Settings
from weft import run

if __name__ == "__main__":
    run(lambda: [build(Settings())])
